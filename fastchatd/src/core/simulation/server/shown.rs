//! Frames in a line, for whoever follows a sequence.
//!
//! **Invariant**: nothing here changes anything.

use fastchat_wire::v1;
use v1::{client_frame::Body as Ask, server_frame::Body as Said};

use super::Server;

impl Server {
    fn named(&self, id: &bytes::Bytes) -> String {
        self.find(id).map_or_else(|| "c?".into(), |at| format!("c{at}"))
    }

    pub(in crate::core::simulation) fn shown(&self, frame: &v1::ServerFrame) -> String {
        let request = frame.request;
        match &frame.body {
            Some(Said::Deliver(deliver)) => {
                let entry = |entry: &v1::Entry| format!("{}:{:?}@{}", entry.seq, entry.kind(), entry.epoch);
                let entries: Vec<String> = deliver.entries.iter().map(entry).collect();
                format!("{} expired {} {entries:?}", self.named(&deliver.conversation), deliver.expired_through)
            }
            Some(Said::Joining(joining)) => {
                format!("{} Joining at {}", self.named(&joining.conversation), joining.start_seq)
            }
            Some(Said::Closed(closed)) => {
                format!("{} Closed by {}", self.named(&closed.conversation), self.named(&closed.by))
            }
            Some(Said::Unjoined(unjoined)) => format!("{} Unjoined", self.named(&unjoined.conversation)),
            Some(Said::Delivered(said)) => {
                format!("{} Delivered {} {}", self.named(&said.conversation), said.account, said.seq)
            }
            Some(Said::Failure(failure)) => {
                format!("{request} {:?} {} {}", failure.code(), failure.text, failure.epoch)
            }
            Some(Said::Accepted(accepted)) => format!("{request} Accepted {:?}", accepted.seqs),
            Some(Said::GroupState(state)) => format!("{request} GroupState {} at {}", state.epoch, state.head),
            Some(Said::Direct(direct)) => {
                format!(
                    "{request} Direct {} created {} member {}",
                    self.named(&direct.conversation),
                    direct.created,
                    direct.member
                )
            }
            Some(other) => format!("{request} {}", format!("{other:?}").split(['(', ' ']).next().unwrap_or_default()),
            None => String::new(),
        }
    }

    pub(in crate::core::simulation) fn shown_ask(&self, frame: &v1::ClientFrame) -> String {
        let request = frame.request;
        match &frame.body {
            Some(Ask::Submit(submit)) => {
                let epochs: Vec<u64> = submit.entries.iter().map(|entry| entry.epoch).collect();
                format!("{request} Submit {} at {epochs:?}", self.named(&submit.conversation))
            }
            Some(Ask::Handshake(ask)) => {
                let (kind, welcomes) = (ask.kind(), ask.welcomes.len());
                format!(
                    "{request} Handshake {} {kind:?} at {} welcomes {welcomes}",
                    self.named(&ask.conversation),
                    ask.epoch
                )
            }
            Some(Ask::CreateDirect(ask)) => {
                format!("{request} CreateDirect {} replaces {}", ask.peer, self.named(&ask.replaces))
            }
            Some(Ask::ClaimKeyPackages(ask)) => format!("{request} Claim {}", ask.account),
            Some(Ask::FetchGroup(ask)) => format!("{request} FetchGroup {}", self.named(&ask.conversation)),
            Some(other) => format!("{request} {}", format!("{other:?}").split(['(', ' ']).next().unwrap_or_default()),
            None => String::new(),
        }
    }
}
