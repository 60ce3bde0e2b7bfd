//! A program in a container whose output is a part of a snapshot: it counts only when it has ended with 0. Nobody waits for it longer
//! than it may be silent, and it is ended when nobody reads it any more.
//!
//! Blocking once it is started: it is read on a thread of the repository's. What the program says besides is dropped: it may repeat the
//! tenant's data. Not here: which programs (cluster).

use std::{
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, stream::BoxStream};
use isyone_backup::{Stop, source::Producer};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use crate::{
    docker::{Chunk, Docker, DockerError},
    host::ended::end_command,
};

/// How long one that makes a part of a snapshot may be silent. A base backup waits at its beginning for a checkpoint and at its end until the log is archived.
pub(super) const SILENCE: Duration = Duration::from_secs(900);
/// How often somebody looks whether the job was stopped.
const LOOK: Duration = Duration::from_millis(500);
/// How long the engine may take to say how a program has ended.
const END: Duration = Duration::from_secs(30);

/// A program to be run in a container.
pub(super) struct Program {
    pub docker: Arc<dyn Docker>,
    /// The container's id.
    pub container: String,
    pub user: &'static str,
    pub words: Vec<String>,
    /// How long it may be silent.
    pub silence: Duration,
}

impl Program {
    pub(super) async fn start(self, stop: Stop) -> Result<Running, DockerError> {
        let session = self
            .docker
            .exec_session(&self.container, self.user, &self.words, None);
        let session = session.await?;
        drop(session.input); // nothing is told to it
        Ok(Running {
            handle: Handle::current(),
            id: session.id,
            output: session.output,
            rest: Bytes::new(),
            stop,
            silence: self.silence,
            has_ended: false,
            docker: self.docker,
            container: self.container,
        })
    }
}

/// A program that runs.
pub(super) struct Running {
    handle: Handle,
    docker: Arc<dyn Docker>,
    container: String,
    id: String,
    output: BoxStream<'static, Result<Chunk, DockerError>>,
    rest: Bytes,
    stop: Stop,
    silence: Duration,
    /// It has ended by itself, well or not.
    has_ended: bool,
}

impl Running {
    /// The next of its output; `None` at the end of it.
    fn next(&mut self) -> io::Result<Option<Chunk>> {
        let begun = Instant::now();
        loop {
            // Looked at also while there is output: a program may say much for hours.
            if self.stop.is_stopped() {
                return Err(io::Error::other("stopped"));
            }
            let output = &mut self.output;
            let next = self
                .handle
                .block_on(async { timeout(LOOK, output.next()).await });
            match next {
                Ok(Some(Ok(chunk))) => return Ok(Some(chunk)),
                Ok(Some(Err(_))) => return Err(io::Error::other("Docker has cut the program off")),
                Ok(None) => return Ok(None),
                Err(_) if begun.elapsed() > self.silence => {
                    return Err(io::Error::other("the program says nothing any more"));
                }
                Err(_) => {}
            }
        }
    }

    async fn code(&self) -> io::Result<i32> {
        let begun = Instant::now();
        loop {
            match self.docker.exec_state(&self.id).await {
                Ok(state) if !state.running => return Ok(state.code),
                _ if begun.elapsed() > END => {
                    return Err(io::Error::other("nobody says how the program has ended"));
                }
                _ => sleep(LOOK / 10).await,
            }
        }
    }
}

impl Read for Running {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.next()? {
                Some((false, bytes)) => self.rest = bytes,
                Some((true, _)) => {} // see the module
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

impl Producer for Running {
    fn finish(&mut self) -> io::Result<()> {
        let code = self.handle.block_on(self.code())?;
        self.has_ended = true;
        match code {
            0 => Ok(()),
            code => Err(io::Error::other(format!(
                "the program ended with code {code}"
            ))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let (docker, container, id) =
            (self.docker.clone(), self.container.clone(), self.id.clone());
        drop(self.handle.spawn(async move {
            end_command(&*docker, &container, &id).await;
        }));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::testing::fake_docker::FakeDocker;

    struct Site {
        _dir: tempfile::TempDir,
        docker: Arc<FakeDocker>,
        stop: Stop,
        silence: Duration,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self {
                docker: FakeDocker::new(dir.path(), 1),
                _dir: dir,
                stop: Stop::default(),
                silence: SILENCE,
            }
        }

        /// Reads a program that gives `output` to its end, as a repository does.
        async fn read(
            &self,
            output: BoxStream<'static, Result<Chunk, DockerError>>,
        ) -> io::Result<Vec<u8>> {
            let mut running = Running {
                handle: Handle::current(),
                docker: self.docker.clone(),
                container: "postgres_alfa".to_owned(),
                id: "exec".to_owned(),
                output,
                rest: Bytes::new(),
                stop: self.stop.clone(),
                silence: self.silence,
                has_ended: false,
            };
            let read = tokio::task::spawn_blocking(move || {
                let mut content = Vec::new();
                running.read_to_end(&mut content)?;
                running.finish().map(|()| content)
            });
            read.await.unwrap()
        }
    }

    fn said(pieces: &[(bool, &'static str)]) -> Vec<Result<Chunk, DockerError>> {
        let piece = |(is_error, text): &(bool, &'static str)| {
            Ok((*is_error, Bytes::from_static(text.as_bytes())))
        };
        pieces.iter().map(piece).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_what_a_program_gives_out_counts_and_only_when_it_ends_well() {
        let site = Site::new();
        let pieces =
            || stream::iter(said(&[(false, "ab"), (true, "secret"), (false, "c")])).boxed();
        assert_eq!(site.read(pieces()).await.unwrap(), b"abc");
        site.docker.end_commands_with(1);
        let failed = site.read(pieces()).await.unwrap_err().to_string();
        assert!(
            failed.contains("code 1") && !failed.contains("secret"),
            "{failed}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_that_is_cut_off_or_stopped_has_not_ended() {
        let site = Site::new();
        let mut pieces = said(&[(false, "ab")]);
        pieces.push(Err(DockerError::Unreachable("gone".to_owned())));
        assert!(site.read(stream::iter(pieces).boxed()).await.is_err());
        let silent = stream::iter(said(&[(false, "ab")])).chain(stream::pending());
        let (stop, begun) = (site.stop.clone(), Instant::now());
        let read = site.read(silent.boxed());
        stop.stop();
        assert_eq!(read.await.unwrap_err().to_string(), "stopped");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    /// Fails if a program that goes on and on is read to its end by whoever has stopped, or if each may be silent equally long.
    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_stopped_while_it_speaks_and_is_silent_as_long_as_it_may_be() {
        let mut site = Site::new();
        let endless = stream::repeat_with(|| Ok((false, Bytes::from_static(b"ab"))));
        let (stop, read) = (site.stop.clone(), site.read(endless.boxed()));
        drop(tokio::spawn(async move {
            sleep(Duration::from_millis(300)).await;
            stop.stop();
        }));
        assert_eq!(read.await.unwrap_err().to_string(), "stopped");
        site.stop = Stop::default();
        site.silence = Duration::from_millis(100);
        let begun = Instant::now();
        let silent = site.read(stream::pending().boxed()).await.unwrap_err();
        assert!(silent.to_string().contains("says nothing"), "{silent}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
