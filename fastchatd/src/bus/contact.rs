//! A contact's object.
//!
//! **Invariant**: its methods concern this contact of this account, whatever the options say.

use fastchat_ipc::{Contact, method};
use serde_json::json;
use tokio::sync::watch;
use zbus::{Connection, interface, message::Header};

use super::{
    call::{Dict, Failure, Front},
    convert::name_of,
    tree::{Properties, View},
};

impl View for Contact {
    const INTERFACE: &'static str = "org.fastchat.FastChat1.Contact";
    type Object = ContactObject;

    fn properties(&self) -> Properties {
        [
            ("Name", self.name.clone().into()),
            ("Alias", self.alias.clone().into()),
            ("State", name_of(&self.state).into()),
            ("Fingerprint", self.fingerprint.clone().into()),
            ("Verified", self.verified.into()),
            ("KeyChanged", self.key_changed.into()),
            ("Active", self.active.into()),
            ("ActiveSince", self.active_since_ms.into()),
        ]
        .into()
    }
}

/// The object.
pub(super) struct ContactObject {
    front: Front,
    account: String,
    contact: String,
    view: watch::Receiver<Contact>,
}

impl ContactObject {
    pub(super) fn new(front: Front, account: String, contact: String, view: watch::Receiver<Contact>) -> Self {
        Self { front, account, contact, view }
    }
}

/// Somebody an account knows.
#[interface(name = "org.fastchat.FastChat1.Contact")]
impl ContactObject {
    /// Accepts a request.
    async fn accept(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::AcceptContact>(
                (bus, call),
                json!({"account": self.account, "contact": self.contact}),
                options,
            )
            .await
    }

    /// Declines a request: it shows nowhere any more.
    async fn decline(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::DeclineContact>(
                (bus, call),
                json!({"account": self.account, "contact": self.contact}),
                options,
            )
            .await
    }

    /// Blocks somebody: their messages are refused by the server.
    async fn block(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::BlockContact>(
                (bus, call),
                json!({"account": self.account, "contact": self.contact}),
                options,
            )
            .await
    }

    /// Lifts a block.
    async fn unblock(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::UnblockContact>(
                (bus, call),
                json!({"account": self.account, "contact": self.contact}),
                options,
            )
            .await
    }

    /// Removes somebody from the contacts; the chat's history stays.
    async fn remove(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::RemoveContact>(
                (bus, call),
                json!({"account": self.account, "contact": self.contact}),
                options,
            )
            .await
    }

    /// Sets what we call a contact.
    async fn set_alias(
        &self,
        alias: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "contact": self.contact, "alias": alias});
        self.front.call::<method::SetContactAlias>((bus, call), given, options).await
    }

    /// Marks a contact's key as verified after the safety numbers were compared (option `safety_number`).
    async fn verify_key(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::VerifyContactKey>(
                (bus, call),
                json!({"account": self.account, "contact": self.contact}),
                options,
            )
            .await
    }

    /// Trusts a contact's changed key; what was held goes out.
    async fn trust_key(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::TrustContactKey>(
                (bus, call),
                json!({"account": self.account, "contact": self.contact}),
                options,
            )
            .await
    }

    /// Its name on the server.
    #[zbus(property)]
    fn name(&self) -> String {
        self.view.borrow().name.clone()
    }

    /// What we call it; empty for its name.
    #[zbus(property)]
    fn alias(&self) -> String {
        self.view.borrow().alias.clone()
    }

    /// `request`, `accepted`, `declined` or `blocked`.
    #[zbus(property)]
    fn state(&self) -> String {
        name_of(&self.view.borrow().state)
    }

    /// SHA-256 of its identity key, in hex.
    #[zbus(property)]
    fn fingerprint(&self) -> String {
        self.view.borrow().fingerprint.clone()
    }

    /// Whether its safety number was compared.
    #[zbus(property)]
    fn verified(&self) -> bool {
        self.view.borrow().verified
    }

    /// Whether its identity key changed and nobody has trusted the new one yet.
    #[zbus(property)]
    fn key_changed(&self) -> bool {
        self.view.borrow().key_changed
    }

    /// Whether it is connected now.
    #[zbus(property)]
    fn active(&self) -> bool {
        self.view.borrow().active
    }

    /// Since when `Active` is what it is, milliseconds of Unix time; 0 when unknown.
    #[zbus(property)]
    fn active_since(&self) -> u64 {
        self.view.borrow().active_since_ms
    }
}
