//! A server that speaks the protocol, keeps everything in memory, and lies when it is told to.
//!
//! One task owns the books; connections send it what devices say, and it sends them what to answer. Every frame to a
//! device passes through the [`Twist`] that the test has set.
//!
//! **Invariant**: without a twist it is honest: whatever a test sees then is no lie's doing.

mod books;
mod connection;
mod groups;
mod scenes;

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result};
use fastchat_wire::v1::{self, ServerFrame};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use books::Books;
pub use scenes::in_deliveries_to;

/// Turns a frame for an account into what is sent in its place.
pub type Twist = Box<dyn FnMut(&str, ServerFrame) -> Vec<ServerFrame> + Send>;

/// Frames and orders that wait at most.
const WAITING: usize = 1024;

/// What the owner of the books is told.
enum Event {
    /// A connection began; frames for its device go there.
    Opened(u64, mpsc::Sender<ServerFrame>),
    /// A device said something.
    Said(u64, Box<v1::ClientFrame>),
    /// A connection ended.
    Closed(u64),
    /// The test wants this done with every frame from now on.
    Lie(Twist),
    /// The test wants this said to an account.
    Say(String, Box<ServerFrame>),
    /// The test wants to know the state of the newest group.
    Show(oneshot::Sender<Option<v1::GroupState>>),
}

/// A running server.
pub struct FalseServer {
    events: mpsc::Sender<Event>,
    address: String,
    pin: String,
    /// Ends with the value.
    _tasks: JoinSet<()>,
}

impl FalseServer {
    /// Starts an honest one.
    ///
    /// # Errors
    /// It cannot listen.
    pub async fn start() -> Result<Self> {
        let (config, pin) = crate::self_signed()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let (events, heard) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        tasks.spawn(keep(Books::default(), heard));
        tasks.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), events.clone()));
        Ok(Self { events, address, pin, _tasks: tasks })
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address of an account on it.
    #[must_use]
    pub fn account(&self, name: &str) -> String {
        format!("{name}@{}", self.address)
    }

    /// Its certificate's pin.
    #[must_use]
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// From now on it does this with every frame that it sends.
    ///
    /// # Errors
    /// It has ended.
    pub async fn lie(&self, twist: impl FnMut(&str, ServerFrame) -> Vec<ServerFrame> + Send + 'static) -> Result<()> {
        self.events.send(Event::Lie(Box::new(twist))).await.ok().context("the made-up server has ended")
    }

    /// From now on it is honest again.
    ///
    /// # Errors
    /// It has ended.
    pub async fn be_honest(&self) -> Result<()> {
        self.lie(|_, frame| vec![frame]).await
    }

    /// What the server knows of the newest group, as a device would fetch it.
    ///
    /// # Errors
    /// There is no group, or the server has ended.
    pub async fn group_state(&self) -> Result<v1::GroupState> {
        let (answer, answered) = oneshot::channel();
        self.events.send(Event::Show(answer)).await.ok().context("the made-up server has ended")?;
        answered.await?.context("there is no group")
    }

    /// Says something to an account that nobody asked for.
    ///
    /// # Errors
    /// It has ended.
    pub async fn say(&self, account: &str, body: v1::server_frame::Body) -> Result<()> {
        let frame = Box::new(ServerFrame { request: 0, body: Some(body) });
        self.events.send(Event::Say(account.to_owned(), frame)).await.ok().context("the made-up server has ended")
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, events: mpsc::Sender<Event>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    while let Ok((tcp, _)) = listener.accept().await {
        number += 1;
        connections.spawn(connection::serve(number, tcp, acceptor.clone(), events.clone()));
    }
}

/// Owns the books.
async fn keep(mut books: Books, mut events: mpsc::Receiver<Event>) {
    let mut twist: Twist = Box::new(|_, frame| vec![frame]);
    while let Some(event) = events.recv().await {
        let said = match event {
            Event::Opened(connection, outbox) => books.opened(connection, outbox),
            Event::Said(connection, frame) => books.said(connection, *frame),
            Event::Closed(connection) => books.closed(connection),
            Event::Lie(new) => {
                twist = new;
                Vec::new()
            }
            Event::Show(answer) => {
                // A test that is over does not need to know.
                let _ = answer.send(books.group_state());
                Vec::new()
            }
            Event::Say(account, frame) => {
                // Already what the test wants.
                books.send(&account, *frame);
                Vec::new()
            }
        };
        for (to, frame) in said {
            for frame in twist(books.name(to), frame) {
                books.send_to(to, frame);
            }
        }
    }
}
