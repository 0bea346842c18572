//! A server that lives as long as a value: for tests that start programs against it.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::kubernetes;

/// Kubernetes clusters on a free port of loopback, until this is dropped.
#[derive(Debug)]
pub struct Background {
    addr: SocketAddr,
    clusters: Vec<String>,
    /// Ends what it serves when it is dropped.
    _runtime: Runtime,
}

impl Background {
    /// Serves from now on.
    ///
    /// # Errors
    /// The system has no port, or no threads.
    pub fn start(options: &kubernetes::Options) -> io::Result<Self> {
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let addr = listener.local_addr()?;
        let context = runtime.enter();
        let routes = kubernetes::routes(options);
        drop(context);
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { addr, clusters: options.clusters.clone(), _runtime: runtime })
    }

    /// Where faults are ordered: `http://…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A kubeconfig with one context for each cluster.
    pub fn kubeconfig(&self) -> String {
        kubernetes::kubeconfig(self.addr, &self.clusters)
    }
}
