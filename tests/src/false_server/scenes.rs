//! What tests of the made-up server begin with, and what they do to its deliveries.
//!
//! **Invariant**: nothing here lies by itself.

use anyhow::{Context, Result};
use fastchat_wire::{
    ConversationId,
    v1::{Deliver, ServerFrame, server_frame::Body},
};
use futures_util::future::try_join_all;

use super::FalseServer;
use crate::{Person, agree};

impl FalseServer {
    /// Several people with accounts on it, online.
    ///
    /// # Errors
    /// Any step fails for anybody.
    pub async fn people(&self, names: &[&str]) -> Result<Vec<Person>> {
        let register = async |name: &str| Person::registered_at(name, &self.account(name), self.pin()).await;
        try_join_all(names.iter().map(|name| register(name))).await
    }

    /// Alice (admin) and bob in the group "ops".
    ///
    /// # Errors
    /// Any step fails.
    pub async fn group(&self) -> Result<(Person, Person, ConversationId)> {
        let mut two = self.people(&["alice", "bob"]).await?.into_iter();
        let (mut alice, mut bob) = (two.next().context("alice")?, two.next().context("bob")?);
        let id = alice.make_group("ops", &["bob"]).await?.id.parse()?;
        agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
        Ok((alice, bob, id))
    }
}

/// A lie about what is delivered to an account.
pub fn in_deliveries_to(
    account: &'static str,
    mut lie: impl FnMut(Deliver) -> Vec<Deliver> + Send + 'static,
) -> impl FnMut(&str, ServerFrame) -> Vec<ServerFrame> + Send {
    move |to, frame| match frame.body {
        Some(Body::Deliver(deliver)) if to == account => {
            let frame = |deliver| ServerFrame { request: 0, body: Some(Body::Deliver(deliver)) };
            lie(deliver).into_iter().map(frame).collect()
        }
        body => vec![ServerFrame { request: frame.request, body }],
    }
}
