//! Somebody with an account and a daemon of their own.
//!
//! **Invariant**: what a person waits for is an event of the daemon, never time.

use anyhow::{Context, Result, bail, ensure};
use fastchat_ipc::{
    Account, AccountState, ApiError, Client, ClientError, Contact, Empty, Event, History, KeyStore, Message,
    MessageKind, MessageState, Method, OfAccount, ReadEvents, Send, Sent, ShowKey, SignIn, Wait, method,
};

use crate::{Daemon, PATIENCE, Server, within};

/// Everybody's password.
pub const PASSWORD: &str = "correct horse battery";
/// Messages in one answer of `history` at most.
const PAGE: u32 = 1000;

/// A person.
pub struct Person {
    /// The account's name.
    pub name: String,
    /// Their daemon.
    pub daemon: Daemon,
    /// A connection, and the process that it goes to.
    client: Option<(u32, Client)>,
}

impl Person {
    /// Somebody with a running daemon and no account yet.
    ///
    /// # Errors
    /// The daemon does not start.
    pub async fn new(name: &str) -> Result<Self> {
        Self::with(name, Daemon::prepare(name)?).await
    }

    /// The same, on a daemon that was prepared.
    ///
    /// # Errors
    /// The daemon does not start.
    pub async fn with(name: &str, mut daemon: Daemon) -> Result<Self> {
        daemon.start().await?;
        Ok(Self { name: name.to_owned(), daemon, client: None })
    }

    /// Somebody with an account on `server`, online.
    ///
    /// # Errors
    /// Any step fails.
    pub async fn registered(name: &str, server: &Server) -> Result<Self> {
        Self::registered_at(name, &server.account(name), server.pin()).await
    }

    /// Somebody with the account `address` on a server with the certificate `pin`, online.
    ///
    /// # Errors
    /// Any step fails.
    pub async fn registered_at(name: &str, address: &str, pin: &str) -> Result<Self> {
        let mut person = Self::new(name).await?;
        let sign_in = SignIn { pin: pin.to_owned(), ..Self::sign_in(address) };
        person.call::<method::Register>(&sign_in).await?;
        person.online().await?;
        Ok(person)
    }

    /// What somebody gives to sign in as `address`: with the key file, trusting the server on first contact.
    #[must_use]
    pub fn sign_in(address: &str) -> SignIn {
        SignIn {
            address: address.to_owned(),
            password: PASSWORD.to_owned(),
            accept_new: true,
            key_store: KeyStore::File,
            ..SignIn::default()
        }
    }

    /// Calls a method of the daemon.
    ///
    /// # Errors
    /// The call fails.
    pub async fn call<M: Method>(&mut self, params: &M::Params) -> Result<M::Result> {
        self.try_call::<M>(params).await.with_context(|| format!("{} of {}", M::NAME, self.name))
    }

    /// Calls a method of the daemon that is to be refused; gives why.
    ///
    /// # Errors
    /// It was not refused, or the daemon did not answer.
    pub async fn refusal<M: Method>(&mut self, params: &M::Params) -> Result<ApiError> {
        match self.try_call::<M>(params).await {
            Err(ClientError::Api(error)) => Ok(error),
            Err(error) => Err(error.into()),
            Ok(_) => bail!("{} of {} succeeded", M::NAME, self.name),
        }
    }

    /// Calls a method of the daemon; the connection is made anew when it broke before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn try_call<M: Method>(&mut self, params: &M::Params) -> Result<M::Result, ClientError> {
        let process = self.daemon.pid();
        let mut client = match self.client.take() {
            Some((former, client)) if former == process => client,
            _ => Client::connect(&self.daemon.socket(), PATIENCE).await?,
        };
        let outcome = client.call::<M>(params).await;
        if !matches!(outcome, Err(ClientError::Broken(_) | ClientError::TimedOut(_))) {
            self.client = Some((process, client));
        }
        outcome
    }

    /// Waits until `done` gives something: it is asked now and after each event.
    ///
    /// # Errors
    /// It takes too long, or `done` fails.
    pub async fn until<T>(
        &mut self,
        what: &str,
        mut done: impl AsyncFnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let what = format!("{}: {what}", self.name);
        within(&what, async {
            let mut events = self.daemon.client().await?.subscribe("").await?;
            loop {
                if let Some(found) = done(self).await? {
                    return Ok(found);
                }
                events.next().await?;
            }
        })
        .await
    }

    /// Waits until the account's connection stands.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn online(&mut self) -> Result<Account> {
        self.in_state(AccountState::Online).await
    }

    /// Waits until the account is in a state.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn in_state(&mut self, state: AccountState) -> Result<Account> {
        let what = format!("the account is {state:?}");
        self.until(&what, async |person| {
            let account = person.account().await?;
            Ok((account.state == state).then_some(account))
        })
        .await
    }

    /// The default account.
    ///
    /// # Errors
    /// There is none.
    pub async fn account(&mut self) -> Result<Account> {
        let accounts = self.call::<method::ListAccounts>(&Empty {}).await?.accounts;
        accounts.into_iter().next().context("no account")
    }

    /// Sends a text; gives what became of it when it is on the disk.
    ///
    /// # Errors
    /// It is refused.
    pub async fn send(&mut self, to: &str, text: &str) -> Result<Sent> {
        self.send_and_wait(to, text, Wait::Queued).await
    }

    /// Sends a text and waits as long as `wait` says.
    ///
    /// # Errors
    /// It is refused.
    pub async fn send_and_wait(&mut self, to: &str, text: &str, wait: Wait) -> Result<Sent> {
        let params = Send { to: vec![to.to_owned()], text: text.to_owned(), wait, ..Send::default() };
        let result = self.call::<method::SendMessage>(&params).await?;
        result.messages.into_iter().next().context("an answer without a message")
    }

    /// Sends a text and sees it delivered.
    ///
    /// # Errors
    /// It is not delivered in time.
    pub async fn deliver(&mut self, to: &str, text: &str) -> Result<Sent> {
        let sent = self.send_and_wait(to, text, Wait::Delivered).await?;
        ensure!(sent.state == MessageState::Delivered, "{}'s message is {sent:?}", self.name);
        Ok(sent)
    }

    /// Everything in a chat, oldest first; nothing when there is no such chat.
    ///
    /// # Errors
    /// The history cannot be read.
    pub async fn history(&mut self, chat: &str) -> Result<Vec<Message>> {
        let mut pages = Vec::new();
        let mut before = 0;
        loop {
            let params = History { chat: chat.to_owned(), limit: PAGE, before, ..History::default() };
            let page = match self.try_call::<method::ReadHistory>(&params).await {
                Err(ClientError::Api(error)) if error.code == fastchat_ipc::ErrorCode::NotFound => break,
                page => page?,
            };
            before = page.messages.first().map_or(0, |message| message.position);
            pages.push(page.messages);
            if !page.more {
                break;
            }
        }
        Ok(pages.into_iter().rev().flatten().collect())
    }

    /// The texts in a chat, oldest first; no notices.
    ///
    /// # Errors
    /// The history cannot be read.
    pub async fn texts(&mut self, chat: &str) -> Result<Vec<String>> {
        let messages = self.history(chat).await?.into_iter();
        Ok(messages.filter(|message| message.kind == MessageKind::Text).map(|message| message.text).collect())
    }

    /// The texts in a chat that somebody else wrote, oldest first.
    ///
    /// # Errors
    /// The history cannot be read.
    pub async fn heard(&mut self, chat: &str) -> Result<Vec<String>> {
        let messages = self.history(chat).await?.into_iter();
        let others = messages.filter(|message| message.kind == MessageKind::Text && !message.mine);
        Ok(others.map(|message| message.text).collect())
    }

    /// Waits until somebody's text has come.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn hears(&mut self, chat: &str, text: &str) -> Result<()> {
        let heard =
            async |person: &mut Self| Ok(person.heard(chat).await?.iter().any(|heard| heard == text).then_some(()));
        match self.until(&format!("`{text}` comes"), heard).await {
            Err(error) => Err(error.context(format!("instead there is {:#?}", self.history(chat).await?))),
            Ok(()) => Ok(()),
        }
    }

    /// Waits until a message of ours is in a state.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn sees(&mut self, chat: &str, id: &str, state: MessageState) -> Result<()> {
        self.until(&format!("the message is {state:?}"), async |person| {
            let history = person.history(chat).await?;
            Ok(history.iter().any(|message| message.id == id && message.state == state).then_some(()))
        })
        .await
    }

    /// A contact.
    ///
    /// # Errors
    /// There is no such contact.
    pub async fn contact(&mut self, name: &str) -> Result<Contact> {
        let contacts = self.call::<method::ListContacts>(&OfAccount::default()).await?.contacts;
        contacts.into_iter().find(|contact| contact.name == name).with_context(|| format!("no contact {name}"))
    }

    /// The safety number with a contact.
    ///
    /// # Errors
    /// It is not known yet.
    pub async fn safety_number(&mut self, contact: &str) -> Result<String> {
        let params = ShowKey { contact: contact.to_owned(), ..ShowKey::default() };
        Ok(self.call::<method::ShowKeys>(&params).await?.safety_number)
    }

    /// Every event after a cursor (`0`: every event that is kept), and where to read on.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn events(&mut self, since: &str) -> Result<(Vec<Event>, String)> {
        let (mut events, mut cursor) = (Vec::new(), since.to_owned());
        loop {
            let params = ReadEvents { since: cursor.clone(), limit: 1000, wait_ms: 0 };
            let read = self.call::<method::ReadEventLog>(&params).await?;
            if read.events.is_empty() {
                return Ok((events, cursor));
            }
            events.extend(read.events);
            cursor = read.cursor;
        }
    }
}
