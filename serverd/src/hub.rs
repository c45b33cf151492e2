//! The shell around the delivery core: one task that owns it, carries out its actions, and feeds completions back.
//!
//! **Invariant**: the task never waits for a connection: a session whose queue is full is dropped, not waited for.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastchat_service::lifecycle;
use fastchat_store::{Store, StoreError};
use fastchat_wire::{AccountName, DeviceId, v1};
use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Interval, sleep_until},
};

use crate::{
    clock,
    core::{Action, Core, Event, SessionId, Settings},
};

/// Events that wait for the core; connections wait for room.
const INBOX: usize = 4_096;
/// Events taken at once.
const AT_ONCE: usize = 128;
/// Batches of frames that wait for one connection. Windows keep what is sent below it, unless the device stops reading.
const OUTBOX: usize = 2_048;

/// What a connection writes next.
#[derive(Debug)]
pub enum Outgoing {
    /// Frames. A session's beginning comes as one, however many conversations it has.
    Frames(Vec<v1::ServerFrame>),
    /// A frame, and then the end.
    Last(Box<v1::ServerFrame>),
}

enum Message {
    Open {
        session: SessionId,
        account: AccountName,
        device: DeviceId,
        outbox: mpsc::Sender<Outgoing>,
    },
    Event(Event),
    /// Send everybody away, then stop.
    Drain(oneshot::Sender<()>),
    /// Stop now.
    Stop,
}

/// A handle on the task.
#[derive(Clone)]
pub struct Hub {
    inbox: mpsc::Sender<Message>,
    next: Arc<AtomicU64>,
}

impl Hub {
    /// Starts the task. `watchdog`: how often to tell systemd that the core is alive.
    #[must_use]
    pub fn start<S: Store>(store: S, settings: Settings, watchdog: Option<Duration>) -> Self {
        let (inbox, messages) = mpsc::channel(INBOX);
        let task = Task {
            core: Core::new(settings),
            store,
            outboxes: HashMap::new(),
            running: FuturesUnordered::new(),
            drained: None,
            watchdog: watchdog.map(tokio::time::interval),
        };
        tokio::spawn(task.run(messages));
        Self { inbox, next: Arc::new(AtomicU64::new(1)) }
    }

    /// Begins a session; the frames for it come out of the receiver. `None`: the server is stopping.
    pub async fn open(&self, account: AccountName, device: DeviceId) -> Option<(SessionId, mpsc::Receiver<Outgoing>)> {
        let (outbox, frames) = mpsc::channel(OUTBOX);
        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        self.inbox.send(Message::Open { session, account, device, outbox }).await.ok()?;
        Some((session, frames))
    }

    /// Tells the core something. `false`: the server is stopping.
    pub async fn tell(&self, event: Event) -> bool {
        self.inbox.send(Message::Event(event)).await.is_ok()
    }

    /// Sends every session away once its appends are done, writes the cursors, and ends the task.
    pub async fn drain(&self, within: Duration) {
        let (reply, drained) = oneshot::channel();
        let drain = async {
            if self.inbox.send(Message::Drain(reply)).await.is_ok() {
                let _ = drained.await;
            }
        };
        if tokio::time::timeout(within, drain).await.is_err() {
            tracing::warn!("some sessions did not end in time");
            let stop = async {
                let _ = self.inbox.send(Message::Stop).await;
                self.inbox.closed().await;
            };
            let _ = tokio::time::timeout(Duration::from_secs(5), stop).await;
        }
    }
}

type Running = FuturesUnordered<Pin<Box<dyn Future<Output = Event> + Send>>>;

struct Task<S> {
    core: Core,
    store: S,
    outboxes: HashMap<SessionId, mpsc::Sender<Outgoing>>,
    /// Store calls under way.
    running: Running,
    drained: Option<oneshot::Sender<()>>,
    watchdog: Option<Interval>,
}

impl<S: Store> Task<S> {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut messages = Vec::with_capacity(AT_ONCE);
        loop {
            let due = self
                .core
                .due_ms()
                .map(|due| Instant::now() + Duration::from_millis(due.saturating_sub(clock::now_ms()).min(60_000)));
            tokio::select! {
                // Completions first: they free windows and let people know.
                biased;
                Some(event) = self.running.next(), if !self.running.is_empty() => {
                    self.step(event);
                    self.drain_ready();
                }
                count = inbox.recv_many(&mut messages, AT_ONCE) => {
                    if count == 0 {
                        return self.finish().await;
                    }
                    for message in messages.drain(..) {
                        if matches!(message, Message::Stop) {
                            return self.finish().await;
                        }
                        self.take(message);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.step(Event::Timer),
                () = tick(&mut self.watchdog), if self.watchdog.is_some() => lifecycle::alive(),
            }
            if self.drained.is_some() && self.core.sessions() == 0 && self.running.is_empty() {
                return self.finish().await;
            }
        }
    }

    /// Takes the completions that are there already: a group commit brings many at once.
    fn drain_ready(&mut self) {
        let waker = futures_util::task::noop_waker();
        let mut context = std::task::Context::from_waker(&waker);
        for _ in 0..AT_ONCE {
            match Pin::new(&mut self.running).poll_next(&mut context) {
                std::task::Poll::Ready(Some(event)) => self.step(event),
                _ => break,
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Open { session, account, device, outbox } => {
                self.outboxes.insert(session, outbox);
                self.step(Event::Opened { session, account, device });
            }
            Message::Event(event) => {
                if let Event::Closed(session) = &event {
                    self.outboxes.remove(session);
                }
                self.step(event);
            }
            Message::Drain(reply) => {
                self.drained = Some(reply);
                self.step(Event::Drain);
            }
            Message::Stop => {}
        }
    }

    fn step(&mut self, event: Event) {
        let mut actions: VecDeque<Action> = self.core.step(clock::now_ms(), event).into();
        while let Some(action) = actions.pop_front() {
            let lost = match action {
                Action::Send(session, frame) => self.send(session, *frame, &mut actions),
                other => {
                    self.perform(other);
                    None
                }
            };
            if let Some(lost) = lost {
                actions.extend(self.core.step(clock::now_ms(), Event::Closed(lost)));
            }
        }
    }

    /// Carries out an action.
    fn perform(&mut self, action: Action) {
        match action {
            // Goes out with those that follow it: see `step`.
            Action::Send(..) => {}
            Action::Close(session, last) => {
                if let Some(outbox) = self.outboxes.remove(&session) {
                    let _ = outbox.try_send(Outgoing::Last(last));
                }
            }
            Action::ReadState { session, device, joinings } => {
                let state = self.store.device_state(device, joinings);
                self.start(async move { Event::StateRead { session, state: state.await } });
            }
            Action::Append { session, request, append } => {
                let conversation = append.conversation;
                let outcome = self.store.append(append);
                self.start(async move { Event::Appended { session, request, conversation, outcome: outcome.await } });
            }
            Action::AppendHandshake { session, request, append } => {
                let (conversation, kind) = (append.conversation, append.entry.kind);
                let outcome = self.store.append_handshake(*append);
                self.start(async move {
                    let outcome = outcome.await;
                    Event::HandshakeAppended { session, request, conversation, kind, outcome }
                });
            }
            Action::ReadPage { session, conversation, device, after, bounds } => {
                let page = self.store.read_after(conversation, device, after, bounds);
                self.start(async move { Event::PageRead { session, conversation, page: page.await } });
            }
            Action::SaveCursors(moves) => {
                let saved = self.store.save_cursors(moves);
                self.start(async move { Event::CursorsSaved { saved: log_failure(saved.await) } });
            }
        }
    }

    /// Sends a frame and those for the same session that come right after it; answers the session if it was lost.
    fn send(
        &mut self,
        session: SessionId,
        frame: v1::ServerFrame,
        actions: &mut VecDeque<Action>,
    ) -> Option<SessionId> {
        let mut frames = vec![frame];
        while matches!(actions.front(), Some(Action::Send(other, _)) if *other == session) {
            if let Some(Action::Send(_, frame)) = actions.pop_front() {
                frames.push(*frame);
            }
        }
        let sent = self.outboxes.get(&session)?.try_send(Outgoing::Frames(frames));
        if sent.is_ok() {
            return None;
        }
        tracing::debug!(session = session.0, "a connection does not read what it is sent: ending it");
        self.outboxes.remove(&session);
        Some(session)
    }

    fn start(&self, call: impl Future<Output = Event> + Send + 'static) {
        self.running.push(Box::pin(call));
    }

    /// The last write.
    async fn finish(mut self) {
        while let Some(event) = self.running.next().await {
            self.step(event);
        }
        let moves = self.core.take_cursors();
        if !moves.is_empty() {
            log_failure(self.store.save_cursors(moves).await);
        }
        if let Some(drained) = self.drained.take() {
            let _ = drained.send(());
        }
    }
}

fn log_failure(saved: Result<(), StoreError>) -> bool {
    if let Err(error) = &saved {
        tracing::warn!(%error, "cursors were not written; trying again");
    }
    saved.is_ok()
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
