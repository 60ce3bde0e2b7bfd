//! The terminal while `isyctl top` uses it: raw mode, the alternate screen, keys in, pictures out.
//!
//! One thread reads keys and one draws, because a terminal may be slow (a stalled connection): the loop, which also
//! handles signals, never waits for it. Of several pending pictures only the newest is drawn. The terminal is restored
//! on every way out: by drop after a return, an error or a signal, and by a hook before a panic is printed. A third
//! thread watches for a hangup: no signal reports one when the terminal is not our controlling terminal, and the thread
//! that reads keys would then never end.

use std::{
    io::{self, BufWriter, Stdout, Write as _},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc as threads},
    time::Duration,
};

use ratatui::{
    Terminal, TerminalOptions, Viewport,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event::{self, KeyEventKind},
        execute,
        terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
    },
    layout::Rect,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::sync::mpsc;

use super::{draw, model::Event, view::ScreenView};
use crate::{exit::Failure, terminal::RawMode};

/// Queue for keys pressed faster than they are handled.
const KEYS: usize = 64;
/// How long to wait for the last picture to be drawn.
const PATIENCE: Duration = Duration::from_millis(500);
/// Buffer size: a large terminal's picture in one write.
const PICTURE_BYTES: usize = 64 * 1024;

/// The newest picture not drawn yet.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    view: Option<ScreenView>,
    stop: bool,
}

impl Slot {
    fn set(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Waits for the next picture; `None` at the end.
    fn next(&self) -> Option<ScreenView> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stop {
                return None;
            }
            if let Some(view) = state.view.take() {
                return Some(view);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[derive(Debug)]
pub struct Screen {
    slot: Arc<Slot>,
    keys: mpsc::Receiver<Event>,
    drawn: threads::Receiver<()>,
    // Restored only after our own drop has left the alternate screen.
    _raw: RawMode,
}

impl Screen {
    pub fn enter(colour: bool) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::failed(format!("cannot use this terminal: {e}"));
        let raw = RawMode::enter().map_err(failed)?;
        give_back_on_panic(raw.restorer());
        let (slot, (finished, drawn)) = (Arc::new(Slot::default()), threads::channel());
        let (to, keys) = mpsc::channel(KEYS);
        // The others hold weak senders: when the key reader ends, the channel closes, and that means the terminal is
        // gone.
        let (ending, watching) = (
            Ending {
                finished,
                to: to.downgrade(),
            },
            to.downgrade(),
        );
        let pictures = slot.clone();
        let drawing = move || {
            let _ending = ending;
            // An error ends drawing; `Ending` reports it.
            let _ = paint(&pictures, colour);
        };
        let start = |name: &str| std::thread::Builder::new().name(name.to_owned());
        start("draw").spawn(drawing).map_err(failed)?;
        start("hangup")
            .spawn(move || watch(&watching))
            .map_err(failed)?;
        start("keys").spawn(move || read(&to)).map_err(failed)?;
        Ok(Self {
            slot,
            keys,
            drawn,
            _raw: raw,
        })
    }

    /// Draws this view as soon as the terminal accepts it.
    pub fn show(&self, view: ScreenView) {
        self.slot.set(|pending| pending.view = Some(view));
    }

    /// The next key or resize; [`Event::Hangup`] when the terminal is gone.
    pub async fn next(&mut self) -> Event {
        self.keys.recv().await.unwrap_or(Event::Hangup)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.slot.set(|pending| pending.stop = true);
        // A terminal that accepts no more output cannot be restored properly either.
        let _ = self.drawn.recv_timeout(PATIENCE);
    }
}

/// Reports that drawing has ended, for whatever reason: without a screen the program has nothing left to do.
struct Ending {
    finished: threads::Sender<()>,
    to: mpsc::WeakSender<Event>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // `finished` first, because sending to the loop may block on a full queue. The loop may have given up or ended
        // by now.
        let _ = self.finished.send(());
        hang_up(&self.to);
    }
}

fn hang_up(to: &mpsc::WeakSender<Event>) {
    if let Some(to) = to.upgrade() {
        let _ = to.blocking_send(Event::Hangup);
    }
}

/// Waits only for the hangup, which poll reports without being asked for it.
fn watch(to: &mpsc::WeakSender<Event>) {
    let input = io::stdin();
    loop {
        let mut end = [PollFd::new(&input, PollFlags::empty())];
        match poll(&mut end, None) {
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return hang_up(to),
        }
    }
}

fn give_back_on_panic(restore: impl Fn() + Send + Sync + 'static) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        restore();
        before(panic);
    }));
}

fn paint(slot: &Slot, colour: bool) -> io::Result<()> {
    execute!(io::stdout(), EnterAlternateScreen, Hide)?;
    let drawn = pictures(slot, colour);
    execute!(io::stdout(), LeaveAlternateScreen, Show)?;
    io::stdout().flush()?;
    drawn
}

fn pictures(slot: &Slot, colour: bool) -> io::Result<()> {
    let mut painter: Option<Painter> = None;
    while let Some(view) = slot.next() {
        let area = Rect::new(0, 0, view.size.0, view.size.1);
        let mut fitting = match painter.take().filter(|painter| painter.size == area) {
            Some(painter) => painter,
            None => Painter::new(area)?,
        };
        if let Err(error) = fitting
            .terminal
            .draw(|frame| draw::draw(frame, &view, colour))
        {
            // Its drop would show the cursor, fail, and panic because it cannot report that on the same terminal.
            std::mem::forget(fitting);
            return Err(error);
        }
        painter = Some(fitting);
    }
    Ok(())
}

/// Draws on a screen of fixed size. A terminal that follows resizes by itself would query the cursor position, and the
/// reply would arrive among the keys.
struct Painter {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    size: Rect,
}

impl Painter {
    fn new(size: Rect) -> io::Result<Self> {
        execute!(io::stdout(), Clear(ClearType::All))?;
        let out = BufWriter::with_capacity(PICTURE_BYTES, io::stdout());
        let options = TerminalOptions {
            viewport: Viewport::Fixed(size),
        };
        Ok(Self {
            terminal: Terminal::with_options(CrosstermBackend::new(out), options)?,
            size,
        })
    }
}

fn read(to: &mpsc::Sender<Event>) {
    loop {
        let event = match event::read() {
            Ok(event::Event::Key(key)) if key.kind != KeyEventKind::Release => Event::Key(key),
            Ok(event::Event::Resize(columns, rows)) => Event::Resize(columns, rows),
            Ok(_) => continue,
            Err(_) => Event::Hangup,
        };
        let last = matches!(event, Event::Hangup);
        if to.blocking_send(event).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_drawing_ends_the_program() {
        let ((finished, drawn), (to, mut events)) = (threads::channel(), mpsc::channel(1));
        let ending = Ending {
            finished,
            to: to.downgrade(),
        };
        let drawing = std::thread::spawn(move || {
            let _ending = ending;
            panic!("on purpose");
        });
        assert!(drawing.join().is_err());
        assert!(matches!(events.try_recv(), Ok(Event::Hangup)));
        assert_eq!(drawn.try_recv(), Ok(()));
    }
}
