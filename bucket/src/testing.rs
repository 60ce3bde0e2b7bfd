//! An S3 server in the process, on files of a folder, that has trouble when it is told to.
//!
//! A feature, not shipped. Not here: what is tested with it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt as _, Either, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tokio::{net::TcpListener, runtime::Handle, task::JoinHandle};

use crate::access::{Access, Patience};

/// The only key that it knows.
pub const ACCESS_KEY: &str = "isyone-test";
/// With this secret, which no log may show.
pub const SECRET_KEY: &str = "a-secret-that-no-log-may-show";
/// The bucket that is there.
pub const BUCKET: &str = "copies";

/// What it does with what is put.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trouble {
    #[default]
    None,
    /// Takes nothing more.
    Full,
    /// Takes nothing more from the file of this number on; see [`Server::puts`].
    FullFrom(usize),
    /// Breaks connections in the middle of files.
    Dies,
    /// Answers only after this time.
    Slow(Duration),
    /// Lets nobody remove anything, as a policy does.
    Locked,
    /// Likewise, from the removal of this number on; see [`Server::removes`].
    LockedFrom(usize),
    /// Takes only files that come with a sum of their content, as a bucket with object lock at Amazon's does.
    WantsSums,
    /// Answers nobody.
    Away,
}

/// A server; it ends when it is dropped, what it holds as well.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    folder: tempfile::TempDir,
    trouble: Arc<Mutex<Trouble>>,
    puts: Arc<AtomicUsize>,
    removes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = Response<Either<s3s::Body, Full<bytes::Bytes>>>;

#[derive(Clone)]
struct Door {
    service: S3Service,
    trouble: Arc<Mutex<Trouble>>,
    puts: Arc<AtomicUsize>,
    removes: Arc<AtomicUsize>,
}

impl Server {
    /// Starts one on a port of its own.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn start(runtime: &Handle) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let files = FileSystem::new(folder.path()).expect("its files");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let (trouble, puts, removes) = (Arc::default(), Arc::default(), Arc::default());
        let door = Door {
            service: builder.build(),
            trouble: Arc::clone(&trouble),
            puts: Arc::clone(&puts),
            removes: Arc::clone(&removes),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a port");
        let address = listener.local_addr().expect("its address");
        let _within = runtime.enter();
        let listener = TcpListener::from_std(listener).expect("a port");
        Self {
            address,
            folder,
            trouble,
            puts,
            removes,
            task: runtime.spawn(serve(listener, door)),
        }
    }

    /// How it is reached with the right key.
    #[must_use]
    pub fn access(&self) -> Access {
        Access {
            endpoint: self.endpoint(),
            bucket: BUCKET.to_owned(),
            region: "us-east-1".to_owned(),
            prefix: "isyone".to_owned(),
            access_key: ACCESS_KEY.to_owned().into(),
            secret_key: SECRET_KEY.to_owned().into(),
        }
    }

    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The files of the bucket, below [`Self::access`]'s prefix.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.folder.path().join(BUCKET).join("isyone")
    }

    /// From now on.
    pub fn has(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Files that were put until now, or tried.
    #[must_use]
    pub fn puts(&self) -> usize {
        self.puts.load(Ordering::Relaxed)
    }

    /// Files that were removed until now, or tried.
    #[must_use]
    pub fn removes(&self) -> usize {
        self.removes.load(Ordering::Relaxed)
    }
}

/// Gives up soon.
#[must_use]
pub fn impatient() -> Patience {
    Patience {
        short: Duration::from_secs(5),
        long: Duration::from_secs(2),
        pause: Duration::from_millis(10),
        retries: 1,
    }
}

async fn serve(listener: TcpListener, door: Door) {
    while let Ok((stream, _)) = listener.accept().await {
        let door = door.clone();
        tokio::spawn(async move {
            let answers = service_fn(move |request| door.clone().answer(request));
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answers);
            // Whoever is broken off notices.
            drop(serving.await);
        });
    }
}

impl Door {
    async fn answer(self, mut request: Request<Incoming>) -> Result<Answer, String> {
        let trouble = *self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (puts, removes) = (
            request.method() == Method::PUT,
            request.method() == Method::DELETE,
        );
        let count = |counts: bool, of: &AtomicUsize| match counts {
            true => of.fetch_add(1, Ordering::Relaxed),
            false => of.load(Ordering::Relaxed),
        };
        let trouble = match (
            trouble,
            count(puts, &self.puts),
            count(removes, &self.removes),
        ) {
            (Trouble::FullFrom(first), number, _) if number >= first => Trouble::Full,
            (Trouble::LockedFrom(first), _, number) if number >= first => Trouble::Locked,
            (other, ..) => other,
        };
        match trouble {
            Trouble::Away => return Err("nobody is there".to_owned()),
            Trouble::WantsSums if puts && !has_sum(&request) => {
                drop(request.body_mut().collect().await);
                return Ok(refusal(StatusCode::BAD_REQUEST, "InvalidRequest"));
            }
            Trouble::Full if puts => {
                // It has to be taken in, or the connection breaks before the answer is read.
                drop(request.body_mut().collect().await);
                return Ok(refusal(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "XMinioStorageFull",
                ));
            }
            Trouble::Locked if removes => {
                return Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied"));
            }
            Trouble::Dies if puts => {
                drop(request.body_mut().frame().await);
                return Err("in the middle".to_owned());
            }
            Trouble::Slow(time) if puts => tokio::time::sleep(time).await,
            _ => {}
        }
        let request = request.map(s3s::Body::from);
        let answer = self.service.call(request).await;
        let answer = answer.map_err(|e| format!("{e:?}"))?;
        Ok(answer.map(Either::Left))
    }
}

/// By one of the two ways that S3 knows.
fn has_sum(request: &Request<Incoming>) -> bool {
    let mut names = request
        .headers()
        .keys()
        .map(hyper::header::HeaderName::as_str);
    names.any(|name| {
        name == "content-md5"
            || (name.starts_with("x-amz-checksum-") && name != "x-amz-checksum-mode")
    })
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    let text =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    let mut answer = Response::new(Either::Right(Full::from(text)));
    *answer.status_mut() = status;
    answer
}
