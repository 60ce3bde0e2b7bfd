//! A line that counts and can be cut. Not here: what flows through it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Bytes from the server to clients.
    passed: Arc<AtomicU64>,
}

impl Proxy {
    /// In front of `server`: each connection is cut when altogether so many bytes have come back, for each of `cuts`.
    pub(crate) async fn start(server: SocketAddr, cuts: Vec<u64>) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), server, cuts).await
    }

    /// Likewise, at this address.
    pub(crate) async fn start_at(at: SocketAddr, server: SocketAddr, cuts: Vec<u64>) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let passed = Arc::new(AtomicU64::new(0));
        let count = passed.clone();
        tokio::spawn(async move {
            let mut cuts = cuts.into_iter();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(server).await.unwrap();
                pass(client, server, &count, cuts.next()).await;
            }
        });
        Self { address, passed }
    }

    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

async fn pass(client: TcpStream, server: TcpStream, count: &AtomicU64, cut: Option<u64>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async { drop(tokio::io::copy(&mut from_client, &mut to_server).await) };
    let down = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let passed = count.fetch_add(read as u64, Ordering::Relaxed);
            if cut.is_some_and(|cut| passed >= cut)
                || to_client.write_all(&buffer[..read]).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! { () = up => {}, () = down => {} }
}
