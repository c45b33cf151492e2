//! The life of a link: attempt, session, loss, wait, again.
//!
//! **Invariant**: after `Up` comes exactly one `Down`, and between them only frames of that session.

use std::time::Duration;

use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{RESUME_CONTEXT, v1, v1::client_frame, v1::server_frame};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    AccountKey, Connection, Dialled, Down, FromLink, LinkSettings, Outage, ToLink, Token, Trust, Up,
    connection::unexpected,
    dial,
    pace::BackOff,
    serve::Serve,
    wake::{self, NetworkWatch, SleepWatch},
};

/// How long Resume may take.
const RESUME: Duration = Duration::from_secs(10);

/// The engine has gone: there is nobody to work for.
pub(super) struct Abandoned;

/// The task of one account.
pub(super) struct Link<T> {
    key: AccountKey,
    settings: LinkSettings,
    commands: mpsc::Receiver<ToLink>,
    events: mpsc::Sender<T>,
    back_off: BackOff,
    network: NetworkWatch,
    sessions: u64,
    /// Somebody asked for a connection while none was being waited for.
    hasty: bool,
}

impl<T: From<(AccountKey, FromLink)> + Send + 'static> Link<T> {
    pub(super) fn new(
        key: AccountKey,
        settings: LinkSettings,
        commands: mpsc::Receiver<ToLink>,
        events: mpsc::Sender<T>,
    ) -> Self {
        let network = NetworkWatch::open();
        Self { key, settings, commands, events, back_off: BackOff::default(), network, sessions: 0, hasty: false }
    }

    /// Until the engine closes a channel.
    pub(super) async fn run(mut self) {
        while self.once().await.is_ok() {}
    }

    /// One attempt with all that follows from it.
    async fn once(&mut self) -> Result<(), Abandoned> {
        self.tell(FromLink::Connecting).await?;
        self.hasty = false;
        self.back_off.attempted(now());
        let outage = match self.attempt().await? {
            Ok((connection, up)) => self.session(connection, up).await?,
            Err(outage) => outage,
        };
        if outage.error.code == ErrorCode::ServerChanged {
            tracing::error!(account = self.key.0, "the server's key has changed; not connecting to it");
        }
        let wait = self.back_off.down(now(), outage.retry_after, rand::random());
        let retry_in = (!outage.is_final()).then_some(wait);
        self.tell(FromLink::Down(Down { error: outage.error, retry_in })).await?;
        self.wait(retry_in).await
    }

    /// Connects and takes the session up; gives way when the engine goes.
    async fn attempt(&mut self) -> Result<Result<(Connection, Up), Outage>, Abandoned> {
        let number = self.sessions + 1;
        let attempt = {
            let connecting = connect(&self.settings, number);
            tokio::pin!(connecting);
            loop {
                tokio::select! {
                    attempt = &mut connecting => break attempt,
                    // An attempt is under way: no command has a meaning but the end.
                    command = self.commands.recv() => if command.is_none() { return Err(Abandoned) },
                }
            }
        };
        if let Ok((_, up)) = &attempt {
            self.sessions = number;
            if let Some(token) = Token::from_bytes(&up.session.token) {
                self.settings.token = token;
            }
        }
        Ok(attempt)
    }

    async fn session(&mut self, connection: Connection, up: Up) -> Result<Outage, Abandoned> {
        self.back_off.up(now());
        let limits = up.ready.limits.unwrap_or_default();
        let number = up.number;
        self.tell(FromLink::Up(Box::new(up))).await?;
        let serve = Serve::new(number, connection, &limits, now());
        serve.run(self.key, &mut self.commands, &self.events, &mut self.network).await
    }

    /// Waits for the next attempt: its time, a command, a change of the network, the end of a sleep.
    async fn wait(&mut self, retry_in: Option<Duration>) -> Result<(), Abandoned> {
        let mut due = retry_in.map(|wait| Instant::now() + wait);
        let mut sleep = SleepWatch::new();
        if std::mem::take(&mut self.hasty) {
            self.back_off.reset();
            return Ok(());
        }
        loop {
            // Without a time of its own it waits for the command alone.
            let look = Instant::now() + wake::LOOK;
            let next = due.map_or(look, |due| due.min(look));
            tokio::select! {
                command = self.commands.recv() => match command {
                    None => return Err(Abandoned),
                    Some(ToLink::Reconnect) => {
                        self.back_off.reset();
                        return Ok(());
                    }
                    Some(ToLink::Frame { .. }) => {}
                },
                () = sleep_until(next), if due.is_some() => {
                    if due.is_some_and(|due| due <= Instant::now()) {
                        return Ok(());
                    }
                    if sleep.has_slept() {
                        self.back_off.reset();
                        due = Some(Instant::now());
                    }
                }
                () = self.network.changed(), if due.is_some() => {
                    let eager = Instant::from_std(self.back_off.eager(now()));
                    due = due.map(|due| due.min(eager));
                }
                () = self.events.closed() => return Err(Abandoned),
            }
        }
    }

    async fn tell(&mut self, news: FromLink) -> Result<(), Abandoned> {
        self.hasty |= report(self.key, news, &mut self.commands, &self.events).await?;
        Ok(())
    }
}

/// Reports while no session stands. Takes the commands that come meanwhile, so that the engine never waits for us while
/// we wait for it: frames among them are for a session that is over. Gives whether one said to reconnect.
pub(super) async fn report<T: From<(AccountKey, FromLink)>>(
    key: AccountKey,
    news: FromLink,
    commands: &mut mpsc::Receiver<ToLink>,
    events: &mpsc::Sender<T>,
) -> Result<bool, Abandoned> {
    let mut hasty = false;
    loop {
        tokio::select! {
            biased;
            permit = events.reserve() => {
                permit.map_err(|_| Abandoned)?.send((key, news).into());
                return Ok(hasty);
            }
            command = commands.recv() => hasty |= command.ok_or(Abandoned)? == ToLink::Reconnect,
        }
    }
}

async fn connect(settings: &LinkSettings, number: u64) -> Result<(Connection, Up), Outage> {
    let Dialled { mut connection, ready, .. } = dial(&settings.server, Trust::remembered(settings.pin)).await?;
    let message = [RESUME_CONTEXT, connection.exporter()].concat();
    let resume =
        v1::Resume { token: settings.token.as_bytes().to_vec().into(), signature: (settings.signer)(&message).into() };
    let answer = connection.call(client_frame::Body::Resume(resume), RESUME).await?;
    let server_frame::Body::Session(session) = answer else { return Err(unexpected().into()) };
    if session.account != settings.account.as_str() {
        return Err(ApiError::new(ErrorCode::Server, "the server took up the session of another account")
            .hint("tell the server's operator")
            .into());
    }
    Ok((connection, Up { number, session, ready }))
}

/// The time, also where a test has paused it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
