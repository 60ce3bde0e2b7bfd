//! The terminal while `isyctl top` has it: raw mode, the other screen, keys in, pictures out.
//!
//! Keys are read and pictures are drawn by a thread each, because a terminal may be slow (a stalled connection): the loop, which
//! also hears signals, never waits for it. Of several pictures the newest is drawn. The terminal is given back on every way out:
//! on drop, which a return, an error and a signal end in, and on a panic before it is printed. A third thread waits for the
//! terminal to go away, which no signal tells of when it is not ours alone; reading keys would then never end by itself.

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

/// Keys that are pressed faster than they are handled wait here.
const KEYS: usize = 64;
/// How long the terminal may take for the last picture before it is given up.
const PATIENCE: Duration = Duration::from_millis(500);
/// A large terminal's picture in one piece.
const PICTURE_BYTES: usize = 64 * 1024;

/// The newest picture that is not drawn yet.
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

    /// The next picture; `None` at the end.
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
    // Dropped after our own drop has left the other screen.
    _raw: RawMode,
}

impl Screen {
    pub fn enter(colour: bool) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::failed(format!("cannot use this terminal: {e}"));
        let raw = RawMode::enter().map_err(failed)?;
        give_back_on_panic(raw.restorer());
        let (slot, (finished, drawn)) = (Arc::new(Slot::default()), threads::channel());
        let (to, keys) = mpsc::channel(KEYS);
        // The others hold it weakly: when the reader of keys ends, the channel closes, and then the terminal is gone.
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
            // An error ends drawing, and `Ending` tells of it.
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

    /// Draws this as soon as the terminal takes it.
    pub fn show(&self, view: ScreenView) {
        self.slot.set(|pending| pending.view = Some(view));
    }

    /// The next key or change of size; [`Event::Hangup`] when the terminal is gone.
    pub async fn next(&mut self) -> Event {
        self.keys.recv().await.unwrap_or(Event::Hangup)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.slot.set(|pending| pending.stop = true);
        // A terminal that takes nothing any more cannot be left well either.
        let _ = self.drawn.recv_timeout(PATIENCE);
    }
}

/// Says that nothing is drawn any more, however that came about: without pictures the program has nothing left to do.
struct Ending {
    finished: threads::Sender<()>,
    to: mpsc::WeakSender<Event>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // The loop may have given up waiting, or have ended. First, because there may be no room for the other.
        let _ = self.finished.send(());
        hang_up(&self.to);
    }
}

fn hang_up(to: &mpsc::WeakSender<Event>) {
    if let Some(to) = to.upgrade() {
        let _ = to.blocking_send(Event::Hangup);
    }
}

/// Waits for nothing but the end: a hangup is told without being asked for.
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
            // Its drop would show the cursor, fail, and panic because it cannot say so on the same terminal.
            std::mem::forget(fitting);
            return Err(error);
        }
        painter = Some(fitting);
    }
    Ok(())
}

/// Draws on a screen of one size. One that followed the size by itself would ask the terminal where its cursor is, and the answer
/// would come in between the keys.
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
