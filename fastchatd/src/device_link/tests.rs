//! Tests of linking over a mailbox on loopback: both sides in full, and a server that does with the mailbox what it likes.
//!
//! **Invariant**: see the mailbox below: it notes all that was posted, so that a test can say what never left a device.

mod post_office;

use std::sync::OnceLock;

use fastchat_e2ee::{Device as Keys, Identity};
use fastchat_ipc::LinkRequest;
use uuid::Uuid;

use super::{links::Waiting, *};
use crate::sign_in::{Access, SignedIn};
use post_office::PostOffice;

const NAME: &str = "alice";
const GRANT: [u8; 32] = [8; 32];

fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| Identity::generate().unwrap())
}

fn access(office: &PostOffice) -> Access {
    let identity = Identity::from_bytes(&identity().to_bytes().unwrap()).unwrap();
    let device = Keys::issue(&identity, NAME, Uuid::from_u128(5)).unwrap();
    let address = format!("{NAME}@{}", office.address).parse().unwrap();
    Access { address, pin: Some(office.pin), identity, device, prepared: None }
}

fn asked(office: &PostOffice) -> LinkRequest {
    LinkRequest {
        address: office.address.to_string(),
        device_name: "tablet".into(),
        accept_new: true,
        ..LinkRequest::default()
    }
}

/// Both sides up to what their people compare: each with the string that it shows.
async fn meet(office: &PostOffice) -> ((NewSide, String), (KnownSide, String)) {
    let (new, begun) = NewSide::begin(&asked(office), None, 0).await.unwrap();
    let ((new, shown), known) = tokio::join!(new.wait(0), KnownSide::begin(access(office), &begun.code));
    let (known, offer) = known.unwrap();
    assert_eq!((offer.link.as_str(), offer.device_name.as_str()), (begun.link.as_str(), "tablet"));
    let shown = shown.unwrap();
    assert_eq!(shown.account, access(office).address.to_string());
    ((new.unwrap(), shown.sas), (known, offer.sas))
}

async fn hand_over(known: KnownSide, accept: bool) -> Result<fastchat_ipc::Device, ApiError> {
    known.consent(accept).await?.hand_over(&GRANT, 77).await
}

async fn come_in(new: NewSide, accept: bool) -> Result<SignedIn, ApiError> {
    new.agree(accept).await?.log_in().await
}

#[tokio::test]
async fn a_device_comes_in_when_both_people_agree_to_the_same_string() {
    let office = PostOffice::start().await;
    let ((new, shown), (known, compared)) = meet(&office).await;
    assert_eq!(shown, compared);
    office.publishes(identity().public().to_der());
    let (signed, device) = tokio::join!(come_in(new, true), hand_over(known, true));
    let (signed, device) = (signed.unwrap(), device.unwrap());
    assert_eq!(signed.identity.public(), identity().public());
    signed.device.verify(identity().public()).unwrap();
    assert_eq!((signed.account.as_str(), signed.pin), (NAME, Some(office.pin)));
    assert_eq!((device.id, device.name.as_str()), (signed.device.id().to_string(), "tablet"));
    assert_eq!(office.grants(), [GRANT]);
    assert_eq!(office.posted(), (4, 2), "key, answer, consent, report; offer, package");
}

#[tokio::test]
async fn whoever_of_the_two_refuses_no_package_leaves_and_the_other_side_is_told() {
    for (new_accepts, known_accepts) in [(false, true), (true, false), (false, false)] {
        let office = PostOffice::start().await;
        let ((new, _), (known, _)) = meet(&office).await;
        let (signed, device) = tokio::join!(come_in(new, new_accepts), hand_over(known, known_accepts));
        let (signed, device) = (signed.unwrap_err(), device.unwrap_err());
        for (error, accepted) in [(&signed, new_accepts), (&device, known_accepts)] {
            assert_eq!(error.code, ErrorCode::Refused);
            let expected = if accepted { "other device has ended" } else { "did not show the same string" };
            assert!(error.message.contains(expected), "{error}");
        }
        assert!(office.largest_from_known() < 200, "a package must not have been posted");
        assert!(office.grants().is_empty());
    }
}

#[tokio::test]
async fn strings_that_were_never_shown_cannot_be_agreed_to() {
    let office = PostOffice::start().await;
    let (new, _) = NewSide::begin(&asked(&office), None, 0).await.unwrap();
    assert!(new.account().is_none());
    assert_eq!(come_in(new, true).await.unwrap_err().code, ErrorCode::Refused);
}

#[tokio::test]
async fn an_offer_that_the_server_makes_up_shows_another_string() {
    // The server answers the new device's mailbox itself, and passes the rest on.
    let office = PostOffice::start().await;
    office.tampers(|message, from_new_device, number| match (from_new_device, number) {
        (false, 0) => {
            // Another nonce: version, kind, then the nonce's first byte.
            let mut offer = message.to_vec();
            offer[2] ^= 1;
            offer
        }
        _ => message.to_vec(),
    });
    let ((_, shown), (_, compared)) = meet(&office).await;
    assert_ne!(shown, compared);
}

#[tokio::test]
async fn what_the_server_swaps_of_the_new_device_ends_the_link_on_both_sides() {
    for swapped in [0, 1] {
        let office = PostOffice::start().await;
        office.tampers(move |message, from_new_device, number| {
            let mut message = message.to_vec();
            if from_new_device && number == swapped {
                message[10] ^= 1;
            }
            message
        });
        let (new, begun) = NewSide::begin(&asked(&office), None, 0).await.unwrap();
        let ((new, _), known) = tokio::join!(new.wait(0), KnownSide::begin(access(&office), &begun.code));
        let Err(error) = known else { panic!("message {swapped} was swapped unseen") };
        assert_eq!(error.code, ErrorCode::Refused);
        assert!(error.message.contains("somebody may be between the two"), "{error}");
        let Some(new) = new else { panic!() };
        assert!(come_in(new, true).await.unwrap_err().message.contains("has ended the link"));
        assert!(office.grants().is_empty());
    }
}

#[tokio::test]
async fn a_consent_or_package_that_the_server_swaps_is_refused() {
    for (swapped_from_new_device, number) in [(true, 2), (false, 1)] {
        let office = PostOffice::start().await;
        office.tampers(move |message, from_new_device, at| {
            let mut message = message.to_vec();
            if from_new_device == swapped_from_new_device && at == number {
                let last = message.len() - 1;
                message[last] ^= 1;
            }
            message
        });
        let ((new, _), (known, _)) = meet(&office).await;
        let (signed, device) = tokio::join!(come_in(new, true), hand_over(known, true));
        assert_eq!(signed.unwrap_err().code, ErrorCode::Refused);
        assert_eq!(device.unwrap_err().code, ErrorCode::Refused);
        assert!(office.grants().is_empty(), "nobody may have logged in");
    }
}

#[tokio::test]
async fn a_message_longer_than_the_protocols_is_not_taken() {
    let office = PostOffice::start().await;
    office.tampers(|message, from_new_device, _| if from_new_device { message.to_vec() } else { vec![1; 8193] });
    let (new, begun) = NewSide::begin(&asked(&office), None, 0).await.unwrap();
    let ((new, shown), known) = tokio::join!(new.wait(0), async {
        let known = KnownSide::begin(access(&office), &begun.code);
        // The new device gives up, and says so.
        known.await
    });
    assert!(new.is_none());
    assert_eq!(shown.unwrap_err().code, ErrorCode::Server);
    assert!(known.is_err());
}

#[tokio::test]
async fn lost_connections_do_not_end_a_link() {
    let office = PostOffice::start().await;
    office.publishes(identity().public().to_der());
    office.hangs_up_after(1);
    let ((new, shown), (known, compared)) = meet(&office).await;
    assert_eq!(shown, compared);
    let (signed, device) = tokio::join!(come_in(new, true), hand_over(known, true));
    assert_eq!(device.unwrap().id, signed.unwrap().device.id().to_string());
}

#[tokio::test]
async fn a_message_that_had_to_be_posted_twice_is_taken_once() {
    let office = PostOffice::start().await;
    office.publishes(identity().public().to_der());
    office.loses_answers();
    let ((new, shown), (known, compared)) = meet(&office).await;
    assert_eq!(shown, compared);
    let (signed, device) = tokio::join!(come_in(new, true), hand_over(known, true));
    assert_eq!(device.unwrap().id, signed.unwrap().device.id().to_string());
    assert!(office.posted() >= (6, 4), "{:?}", office.posted());
}

#[tokio::test]
async fn a_link_that_the_server_does_not_know_says_where_codes_come_from() {
    let office = PostOffice::start().await;
    let (_, begun) = NewSide::begin(&asked(&office), None, 0).await.unwrap();
    let mut code: LinkCode = begun.code.parse().unwrap();
    code.link[0] ^= 1;
    let Err(error) = KnownSide::begin(access(&office), &code.to_string()).await else { panic!("it was known") };
    assert_eq!(error.code, ErrorCode::NotFound);
    assert!(error.hint.unwrap().contains("ten minutes"));
}

#[tokio::test]
async fn a_new_device_that_sees_another_key_of_the_server_is_not_linked() {
    let office = PostOffice::start().await;
    let (_, begun) = NewSide::begin(&asked(&office), None, 0).await.unwrap();
    let mut code: LinkCode = begun.code.parse().unwrap();
    code.pin = Some(fastchat_wire::Pin([1; 32]));
    let before = office.posted();
    let Err(error) = KnownSide::begin(access(&office), &code.to_string()).await else { panic!("it was taken") };
    assert_eq!(error.code, ErrorCode::Refused);
    assert!(error.message.contains("ANOTHER KEY"), "{error}");
    assert_eq!(office.posted(), before);
}

#[tokio::test]
async fn a_server_that_is_not_known_is_sent_no_key() {
    let office = PostOffice::start().await;
    let asked = LinkRequest { accept_new: false, ..asked(&office) };
    let Err(error) = NewSide::begin(&asked, None, 0).await else { panic!("it was trusted") };
    assert_eq!(error.code, ErrorCode::UntrustedServer);
    assert_eq!(office.posted(), (0, 0));
    // What is known of the server here already counts.
    assert!(NewSide::begin(&asked, Some(office.pin), 0).await.is_ok());
}

#[tokio::test]
async fn waiting_in_vain_leaves_the_link_to_be_waited_for_again() {
    let office = PostOffice::start().await;
    let (new, begun) = NewSide::begin(&asked(&office), None, 0).await.unwrap();
    let (new, shown) = new.wait(20).await;
    assert_eq!(shown.unwrap_err().code, ErrorCode::TimedOut);
    let new = new.unwrap();
    let ((new, shown), known) = tokio::join!(new.wait(0), KnownSide::begin(access(&office), &begun.code));
    let shown = shown.unwrap();
    assert_eq!(shown.sas, known.unwrap().1.sas);
    // And once it is shown, it stays the same.
    let (_, again) = new.unwrap().wait(0).await;
    assert_eq!(again.unwrap(), shown);
}

#[tokio::test]
async fn a_new_device_that_the_server_turns_away_says_so_on_both_sides() {
    let office = PostOffice::start().await;
    let ((new, _), (known, _)) = meet(&office).await;
    // It publishes no key for the account, so its session is refused.
    let (signed, device) = tokio::join!(come_in(new, true), hand_over(known, true));
    assert_eq!(signed.unwrap_err().code, ErrorCode::Server);
    let error = device.unwrap_err();
    assert!(error.message.contains("could not get in"), "{error}");
}

struct Pretended([u8; 16], tokio::time::Instant);

impl Waiting for Pretended {
    fn link(&self) -> [u8; 16] {
        self.0
    }

    fn ends(&self) -> tokio::time::Instant {
        self.1
    }
}

#[tokio::test(start_paused = true)]
async fn links_that_wait_are_few_short_lived_and_in_one_hand() {
    let mut links = Links::default();
    let ends = tokio::time::Instant::now() + LIFE;
    let names: Vec<String> = (0..8).map(|number| links.put(Pretended([number; 16], ends))).collect();
    assert_eq!(links.room().unwrap_err().code, ErrorCode::RateLimited);
    let link = links.take(&names[0]).ok().unwrap();
    assert_eq!(links.take(&names[0]).err().unwrap().code, ErrorCode::Conflict);
    assert!(links.room().is_err(), "one that is in use counts as well");
    links.put(link);
    assert!(links.take(&names[0]).is_ok());
    links.forget(&names[0]);
    links.room().unwrap();
    assert_eq!(links.take(&names[0]).err().unwrap().code, ErrorCode::NotFound);
    tokio::time::advance(LIFE).await;
    assert_eq!(links.take(&names[1]).err().unwrap().code, ErrorCode::TimedOut);
    links.room().unwrap();
    assert_eq!(links.take(&names[2]).err().unwrap().code, ErrorCode::NotFound);
}
