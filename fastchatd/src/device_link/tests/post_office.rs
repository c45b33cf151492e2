//! A server with mailboxes, which a test can make hostile.
//!
//! **Invariant**: what it hands out is what was posted, but for what the test tampers with.

use std::sync::{Arc, Mutex};

use fastchat_wire::{
    Code, Pin, ServerAddress, v1,
    v1::{client_frame::Body as Ask, server_frame::Body as Said},
};
use tokio::{sync::Notify, task::JoinHandle};

use crate::link::tests::server::{FakeServer, Peer, ready};

const LINK: [u8; 16] = [0xab; 16];

type Tamper = Box<dyn Fn(&[u8], bool, usize) -> Vec<u8> + Send>;

#[derive(Default)]
struct Books {
    from_new: Vec<Vec<u8>>,
    from_known: Vec<Vec<u8>>,
    grants: Vec<[u8; 32]>,
    identity_key: Vec<u8>,
    tamper: Option<Tamper>,
    /// Requests that a connection is answered before it is dropped at the next one.
    patience: Option<usize>,
    /// The answer to the first post of each message is lost.
    forgetful: bool,
}

pub(super) struct PostOffice {
    pub(super) address: ServerAddress,
    pub(super) pin: Pin,
    books: Arc<Mutex<Books>>,
    task: JoinHandle<()>,
}

impl Drop for PostOffice {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PostOffice {
    pub(super) async fn start() -> Self {
        let server = FakeServer::start().await;
        let (address, pin) = (server.address.clone(), server.pin);
        let books = Arc::new(Mutex::new(Books::default()));
        let (shared, news) = (Arc::clone(&books), Arc::new(Notify::new()));
        let task = tokio::spawn(async move {
            loop {
                let Ok(mut peer) = server.try_accept_patiently().await else { continue };
                let (books, news) = (Arc::clone(&shared), Arc::clone(&news));
                tokio::spawn(async move {
                    let Some(hello) = peer.try_receive().await else { return };
                    peer.answer(&hello, Said::Ready(ready())).await;
                    serve(peer, &books, &news).await;
                });
            }
        });
        Self { address, pin, books, task }
    }

    /// What it gives as the account's identity key at login.
    pub(super) fn publishes(&self, key: &[u8]) {
        self.books.lock().unwrap().identity_key = key.to_vec();
    }

    /// Each message goes through here on its way out: with whether the new device posted it, and its number.
    pub(super) fn tampers(&self, tamper: impl Fn(&[u8], bool, usize) -> Vec<u8> + Send + 'static) {
        self.books.lock().unwrap().tamper = Some(Box::new(tamper));
    }

    /// Connections are dropped when they ask for more than this.
    pub(super) fn hangs_up_after(&self, requests: usize) {
        self.books.lock().unwrap().patience = Some(requests);
    }

    /// The answer to the first post of each message is lost with its connection.
    pub(super) fn loses_answers(&self) {
        self.books.lock().unwrap().forgetful = true;
    }

    /// How many messages each side has posted: the new device, the account's device.
    pub(super) fn posted(&self) -> (usize, usize) {
        let books = self.books.lock().unwrap();
        (books.from_new.len(), books.from_known.len())
    }

    pub(super) fn largest_from_known(&self) -> usize {
        self.books.lock().unwrap().from_known.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The grants that somebody logged in with.
    pub(super) fn grants(&self) -> Vec<[u8; 32]> {
        self.books.lock().unwrap().grants.clone()
    }
}

async fn serve(mut peer: Peer, books: &Mutex<Books>, news: &Notify) {
    let mut served = 0;
    while let Some(frame) = peer.try_receive_patiently().await {
        if books.lock().unwrap().patience.is_some_and(|patience| served >= patience) {
            return;
        }
        served += 1;
        let said = match frame.body.clone() {
            Some(Ask::OpenLink(open)) => {
                books.lock().unwrap().from_new.push(open.message.to_vec());
                Said::LinkMessages(v1::LinkMessages { link: LINK.to_vec().into(), ..v1::LinkMessages::default() })
            }
            Some(Ask::PostLink(post)) => {
                let mut books = books.lock().unwrap();
                let side = if post.from_new_device { &mut books.from_new } else { &mut books.from_known };
                let first = !side.contains(&post.message.to_vec());
                side.push(post.message.to_vec());
                news.notify_waiters();
                if first && books.forgetful {
                    return;
                }
                Said::Done(v1::Done {})
            }
            Some(Ask::FetchLink(fetch)) if fetch.link[..] != LINK => {
                Said::Failure(v1::Failure::new(Code::NotFound, ""))
            }
            Some(Ask::FetchLink(fetch)) => fetched(&fetch, books, news).await,
            Some(Ask::Login(login)) => logged_in(login, &mut books.lock().unwrap()),
            other => panic!("{other:?}"),
        };
        peer.answer_if_there(&frame, said).await;
    }
}

async fn fetched(fetch: &v1::FetchLink, books: &Mutex<Books>, news: &Notify) -> Said {
    let (after, from_new) = (usize::try_from(fetch.after).unwrap(), !fetch.to_new_device);
    loop {
        let more = news.notified();
        {
            let books = books.lock().unwrap();
            let side = if from_new { &books.from_new } else { &books.from_known };
            if side.len() > after {
                let tampered = |(at, message): (usize, &Vec<u8>)| match &books.tamper {
                    Some(tamper) => tamper(message, from_new, at),
                    None => message.clone(),
                };
                let messages = side.iter().enumerate().skip(after).map(tampered).map(Into::into).collect();
                let link = LINK.to_vec().into();
                return Said::LinkMessages(v1::LinkMessages { link, messages, expires_ms: 0 });
            }
        }
        more.await;
    }
}

fn logged_in(login: v1::Login, books: &mut Books) -> Said {
    books.grants.push(login.grant[..].try_into().unwrap());
    Said::Session(v1::Session {
        account: login.account,
        device: login.device.unwrap().device,
        token: vec![9; 32].into(),
        identity_key: books.identity_key.clone().into(),
        ..v1::Session::default()
    })
}
