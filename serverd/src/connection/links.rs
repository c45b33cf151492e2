//! Mailboxes by which a new device meets one that is logged in, and the grants that let it in.
//!
//! **Invariant**: the server understands nothing of the messages; number, size, time and rate of them are bounded.

use std::time::Duration;

use fastchat_store::{LinkPosted, Store};
use fastchat_wire::{
    AccountName, Code,
    v1::{self, server_frame::Body},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Services, Trouble, fields, rate_limited, refuse};
use crate::{
    auth, clock,
    core::frames,
    rates::{Counted, Origin, Rate},
};

/// How long a mailbox and a grant are good.
const LIFE_MS: u64 = 10 * 60 * 1_000;
/// Messages of one side.
const MESSAGES: u32 = 8;
/// The longest that an asker waits for a message; then the answer is none, and it asks again.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(25);
/// How often an asker looks without having been told, since another server may have taken the message.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long an asker waits before it looks again.
const PAUSE: Duration = Duration::from_millis(20);
const GRANTS_PER_HOUR: u64 = 30;

pub(super) async fn open<S: Store>(
    services: &Services<S>,
    origin: Origin,
    ask: &v1::OpenLink,
) -> Result<Body, Trouble> {
    let message = fields::link_message(&ask.message)?;
    rated(services, origin).await?;
    let random = auth::random_bytes().map_err(|_| Trouble::End(None))?;
    let link: [u8; 16] = *random.first_chunk().ok_or(Trouble::End(None))?;
    let (now_ms, most) = (clock::now_ms(), services.live().config.limits.links.small());
    if !services.store.open_link(link, message, now_ms + LIFE_MS, most, now_ms).await? {
        let text = "too many devices are being linked at this server: try again in a minute";
        return Err(Trouble::Refuse(frames::failure_after(Code::Overloaded, text, Duration::from_secs(60))));
    }
    Ok(messages(link, Vec::new(), now_ms + LIFE_MS))
}

pub(super) async fn post<S: Store>(
    services: &Services<S>,
    origin: Origin,
    ask: &v1::PostLink,
) -> Result<Body, Trouble> {
    let (link, message) = (fields::link(&ask.link)?, fields::link_message(&ask.message)?);
    rated(services, origin).await?;
    match services.store.post_link(link, ask.from_new_device, message, MESSAGES, clock::now_ms()).await? {
        LinkPosted::Done => {
            services.links.send_modify(|posts| *posts += 1);
            Ok(Body::Done(v1::Done {}))
        }
        LinkPosted::NotFound => Err(gone()),
        LinkPosted::Full => Err(refuse(Code::Invalid, format!("a side has at most {MESSAGES} messages in a link"))),
    }
}

/// Answers at once when there are messages, else when one comes, or with none after a while.
pub(super) async fn fetch<S: Store>(
    services: &Services<S>,
    origin: Origin,
    ask: &v1::FetchLink,
) -> Result<Body, Trouble> {
    let link = fields::link(&ask.link)?;
    rated(services, origin).await?;
    let mut posts = services.links.subscribe();
    let until = Instant::now() + LONGEST_WAIT;
    loop {
        posts.mark_unchanged();
        let mailbox = services.store.link_messages(link, ask.to_new_device, ask.after, clock::now_ms()).await?;
        let mailbox = mailbox.ok_or_else(gone)?;
        let look_again = until.min(Instant::now() + LOOK_AGAIN);
        if !mailbox.messages.is_empty() || Instant::now() >= until {
            return Ok(messages(link, mailbox.messages, mailbox.expires_ms));
        }
        if timeout_at(look_again, posts.changed()).await.is_ok() {
            // It may have been somebody else's message: not more than a few looks in a second.
            sleep(PAUSE).await;
        }
    }
}

/// Lets one new device of the account in.
pub(super) async fn grant<S: Store>(services: &Services<S>, account: &AccountName) -> Result<Body, Trouble> {
    let rate = Rate::per_hour(GRANTS_PER_HOUR);
    services.rates.take(Counted::GrantBy(account.clone()), rate).await.map_err(rate_limited)?;
    let grant = auth::random_bytes().map_err(|_| Trouble::End(None))?;
    let until = clock::now_ms() + LIFE_MS;
    services.store.grant_login(account.clone(), auth::grant_hash(&grant), until).await?;
    Ok(Body::LinkGrant(v1::LinkGrant { grant: grant.to_vec().into() }))
}

async fn rated<S: Store>(services: &Services<S>, origin: Origin) -> Result<(), Trouble> {
    let rate = Rate::per_hour(services.live().config.limits.link_requests_per_ip_per_hour.get());
    services.rates.take(Counted::LinkFrom(origin), rate).await.map_err(rate_limited)
}

fn messages(link: [u8; 16], messages: Vec<bytes::Bytes>, expires_ms: u64) -> Body {
    Body::LinkMessages(v1::LinkMessages { link: link.to_vec().into(), messages, expires_ms })
}

fn gone() -> Trouble {
    refuse(Code::NotFound, "there is no such link, or its ten minutes are over: begin anew on the new device")
}
