//! A thread that accepts connections on a free loopback port and gives each a task, until it is dropped; then all of
//! them are closed.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// The thread.
pub struct Acceptor {
    address: SocketAddr,
    _ends: oneshot::Sender<()>,
}

impl Acceptor {
    /// Starts it: `make` is called on the thread, and makes what is called with each connection.
    pub fn start<Make, Serve, Served>(make: Make) -> Acceptor
    where
        Make: FnOnce() -> Serve + Send + 'static,
        Serve: FnMut(TcpStream) -> Served + 'static,
        Served: Future<Output = ()> + 'static,
    {
        Self::start_receiving(RECEIVES, make)
    }

    /// The same, with so many bytes of each connection that the kernel takes in for us.
    pub fn start_receiving<Make, Serve, Served>(bytes: usize, make: Make) -> Acceptor
    where
        Make: FnOnce() -> Serve + Send + 'static,
        Serve: FnMut(TcpStream) -> Served + 'static,
        Served: Future<Output = ()> + 'static,
    {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        // Set before it listens, it holds for what is accepted: what waits here has crossed no link yet.
        listener.set_recv_buffer_size(bytes).expect("a size of the buffer");
        listener.set_nonblocking(true).expect("a listener that tasks can wait for");
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        listener.listen(1024).expect("a listener");
        let listener = std::net::TcpListener::from(listener);
        let address = listener.local_addr().expect("the port's number");
        let (ends, ended) = oneshot::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let tasks = LocalSet::new();
            tasks.block_on(&runtime, async move {
                let listener = TcpListener::from_std(listener).expect("a runtime with I/O");
                tokio::select! {
                    () = accept(listener, make()) => {}
                    // Its owner is gone.
                    _ = ended => {}
                }
            });
            drop(tasks);
            runtime.shutdown_background();
        });
        Acceptor { address, _ends: ends }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Bytes that the kernel takes in for us of each connection; it doubles them.
pub(crate) const RECEIVES: usize = 256 << 10;

async fn accept<Served: Future<Output = ()> + 'static>(
    listener: TcpListener,
    mut serve: impl FnMut(TcpStream) -> Served,
) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            // It works all the same, only slower.
            let _ = stream.set_nodelay(true);
            tokio::task::spawn_local(serve(stream));
        }
    }
}
