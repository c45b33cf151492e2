//! Signs that an attempt is worth while before its time: the network has changed, or the machine was asleep.
//!
//! The kernel tells of new addresses and routes on a netlink socket (rtnetlink(7)), and sleep shows as a jump of
//! CLOCK_BOOTTIME against CLOCK_MONOTONIC. Either is only a hint.
//!
//! **Invariant**: where the system does not let us watch, nothing is lost but haste.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv, socket_with},
    time::{ClockId, clock_gettime},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Multicast groups (rtnetlink(7)): IPv4 addresses and routes, IPv6 addresses and routes.
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;
/// RTM_NEWADDR and RTM_NEWROUTE: something may be reachable that was not.
const GOOD_NEWS: [u16; 2] = [20, 24];
/// A jump of the clocks that means sleep.
const NAP: Duration = Duration::from_secs(2);
/// How often to look for sleep while waiting.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// Watches the network for new addresses and routes.
pub(super) struct NetworkWatch(Option<AsyncFd<OwnedFd>>);

impl NetworkWatch {
    /// Begins to watch, where the system allows it.
    pub(super) fn open() -> Self {
        let watch = Self::listen();
        if let Err(error) = &watch {
            tracing::info!(%error, "changes of the network cannot be watched; reconnecting goes by time alone");
        }
        Self(watch.ok())
    }

    fn listen() -> std::io::Result<AsyncFd<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol is number 0, which is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        readable(socket)
    }

    /// Waits for a change. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        while let Some(socket) = &self.0 {
            let Ok(mut ready) = socket.readable().await else { break };
            let mut news = false;
            let drained = ready.try_io(|socket| {
                loop {
                    match next(socket.get_ref()) {
                        Ok(good) => news |= good,
                        // Some were dropped: they may have been good ones.
                        Err(Errno::NOBUFS) => news = true,
                        Err(error) => return Err::<(), _>(error.into()),
                    }
                }
            });
            // Ok(Err(_)) is a real error; Err(_) says that all was read.
            if matches!(drained, Ok(Err(_))) {
                break;
            }
            if news {
                return;
            }
        }
        self.0 = None;
        std::future::pending().await
    }
}

#[expect(deprecated, reason = "its successor is unsafe code; what that asks for, an OwnedFd always upholds")]
fn readable(socket: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// Whether the next message of the kernel is good news.
fn next(socket: &OwnedFd) -> Result<bool, Errno> {
    let mut message = [0_u8; 4096];
    let (length, _) = recv(socket, message.as_mut_slice(), RecvFlags::DONTWAIT)?;
    // struct nlmsghdr: length (4 bytes), type (2 bytes), in the machine's byte order.
    let kind = message.get(..length).and_then(|message| message.get(4..6)).and_then(|kind| kind.first_chunk());
    Ok(kind.is_some_and(|kind| GOOD_NEWS.contains(&u16::from_ne_bytes(*kind))))
}

/// Notices that the machine was asleep.
pub(super) struct SleepWatch(Duration);

impl SleepWatch {
    /// Begins now.
    pub(super) fn new() -> Self {
        Self(slept())
    }

    /// Whether the machine has slept since the last look.
    pub(super) fn has_slept(&mut self) -> bool {
        let before = std::mem::replace(&mut self.0, slept());
        self.0.saturating_sub(before) >= NAP
    }
}

/// Time asleep since boot.
fn slept() -> Duration {
    let read = |clock| {
        let time = clock_gettime(clock);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let awake = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(awake)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn being_awake_is_not_sleep() {
        let mut watch = SleepWatch::new();
        assert!(!watch.has_slept());
        watch.0 = watch.0.saturating_sub(NAP);
        if slept() >= NAP {
            assert!(watch.has_slept());
        }
    }

    #[tokio::test]
    async fn without_a_netlink_socket_nothing_ever_changes() {
        let mut watch = NetworkWatch(None);
        let waited = tokio::time::timeout(Duration::from_millis(1), watch.changed()).await;
        assert!(waited.is_err());
    }

    #[tokio::test]
    async fn new_addresses_are_news_and_lost_ones_are_not() {
        let (kernel, socket) = std::os::unix::net::UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut watch = NetworkWatch(Some(readable(socket.into()).unwrap()));
        let say = |kind: u16| {
            let kind = kind.to_ne_bytes();
            kernel.send(&[16, 0, 0, 0, kind[0], kind[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        };
        // RTM_DELADDR, RTM_DELROUTE and a message that is cut short.
        say(21);
        say(25);
        kernel.send(&[16, 0, 0, 0]).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), watch.changed()).await.is_err());
        assert!(watch.0.is_some());
        for kind in GOOD_NEWS {
            say(21);
            say(kind);
            crate::link::tests::server::soon(watch.changed()).await;
        }
    }
}
