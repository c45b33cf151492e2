//! A group, and the list of groups, for people.
//!
//! **Invariant**: what members wrote (names, topics) stands in a line of its own or a cell, escaped.

use anstyle::Style;
use fastchat_ipc::{Group, GroupMember, GroupState};

use crate::local_time::Clock;
use crate::output::{BOLD, DIM, GREEN, RED, YELLOW, counted};
use crate::safe_text;
use crate::table::{Table, fit};

/// Characters of an authenticator that stand together.
const HEX_GROUP: usize = 4;
/// Characters of an authenticator that are shown: enough to compare by eye, all of it is in `--json`.
const HEX_SHOWN: usize = 32;

/// The groups, those that we are in first, for a terminal of `width` columns.
pub(super) fn list(groups: &[Group], width: usize) -> String {
    let mut table = Table::default();
    let (past, present): (Vec<&Group>, Vec<&Group>) = groups.iter().partition(|group| has_ended(group.state));
    for group in present.into_iter().chain(past) {
        // The id is needed only where the name names no group alone.
        let is_alone = groups.iter().filter(|other| other.name == group.name).count() == 1;
        table.line(cells(group, !is_alone, width / 2));
    }
    // What has to be done is never cut off; what a group is about is.
    table.show(usize::MAX)
}

fn has_ended(state: GroupState) -> bool {
    matches!(state, GroupState::Left | GroupState::Deleted)
}

fn cells(group: &Group, with_id: bool, room: usize) -> [(String, Style); 6] {
    let has_ended = has_ended(group.state);
    let name = if has_ended { DIM } else { BOLD };
    let (state, style) = match group.state {
        GroupState::Active if group.admin => ("admin", Style::new()),
        GroupState::Active => ("", Style::new()),
        state => state_word(state),
    };
    let members = if has_ended { String::new() } else { counted(group.members.len(), "member") };
    let unread = if group.unread > 0 { format!("{} unread", group.unread) } else { String::new() };
    let (remark, remark_style) = remark(group, room);
    [
        (safe_text::line(&group.name), name),
        (if with_id { safe_text::line(&group.id) } else { String::new() }, Style::new()),
        (members, DIM),
        (state.to_owned(), style),
        (unread, BOLD),
        (remark, remark_style),
    ]
}

/// What needs attention, else what the group is about in `room` columns.
fn remark(group: &Group, room: usize) -> (String, Style) {
    if has_ended(group.state) {
        return (String::new(), Style::new());
    }
    if let Some(member) = group.members.iter().find(|member| member.key_changed) {
        let (name, argument) = (safe_text::line(&member.name), safe_text::argument(&member.name));
        return (format!("held: key of {name} changed; fastchatctl key show {argument}"), RED);
    }
    if !group.pending.is_empty() {
        return (fit(&safe_text::line(&group.pending.join(", ")), room), YELLOW);
    }
    (fit(&safe_text::line(&group.topic), room), DIM)
}

/// A state in a word, and how it is painted.
pub(crate) fn state_word(state: GroupState) -> (&'static str, Style) {
    match state {
        GroupState::Active => ("active", GREEN),
        GroupState::Joining => ("joining", YELLOW),
        GroupState::Leaving => ("leaving", YELLOW),
        GroupState::Left => ("left", DIM),
        GroupState::Deleted => ("ended", DIM),
    }
}

/// Everything about a group.
pub(super) fn page(group: &Group, clock: &Clock) -> String {
    let mut text = format!("{BOLD}{}{BOLD:#}\n", safe_text::line(&group.name));
    if !group.topic.is_empty() {
        text.push_str(&format!("{}\n", safe_text::line(&group.topic)));
    }
    text.push('\n');
    text.push_str(&facts(group, clock).show(usize::MAX));
    if !group.members.is_empty() {
        text.push_str(&format!("\n{DIM}{}{DIM:#}\n", counted(group.members.len(), "member")));
        text.push_str(&members(group).show(usize::MAX));
    }
    text
}

fn facts(group: &Group, clock: &Clock) -> Table {
    let (state, style) = state_word(group.state);
    let mut table = Table::default();
    let mut fact = |name: &str, value: String, style: Style| table.line([(name.to_owned(), DIM), (value, style)]);
    fact("state", if group.admin { format!("{state}, you are an admin") } else { state.to_owned() }, style);
    for change in &group.pending {
        fact("pending", safe_text::line(change), YELLOW);
    }
    if group.unread > 0 {
        fact("unread", group.unread.to_string(), BOLD);
    }
    fact("made", clock.stamp(group.created_at_ms), Style::new());
    fact("id", safe_text::line(&group.id), Style::new());
    fact("epoch", group.epoch.to_string(), Style::new());
    if !group.authenticator.is_empty() {
        fact("authenticator", spaced(&safe_text::line(&group.authenticator)), Style::new());
    }
    table
}

/// The beginning of the authenticator, in groups.
fn spaced(hex: &str) -> String {
    let characters: Vec<char> = hex.chars().take(HEX_SHOWN).collect();
    characters.chunks(HEX_GROUP).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

fn members(group: &Group) -> Table {
    let own = group.account.split('@').next().unwrap_or_default();
    let mut table = Table::default();
    for member in &group.members {
        let is_own = member.name == own;
        let role = if member.admin { "admin" } else { "" };
        let (remark, style) = if is_own { ("you".to_owned(), DIM) } else { standing(member) };
        table.line([
            (format!("  {}", safe_text::line(&member.name)), BOLD),
            (role.to_owned(), Style::new()),
            (counted(member.devices as usize, "device"), DIM),
            (remark, style),
        ]);
    }
    table
}

/// What is to be known of another member.
fn standing(member: &GroupMember) -> (String, Style) {
    if member.key_changed {
        return (format!("key changed; fastchatctl key show {}", safe_text::argument(&member.name)), RED);
    }
    match (member.leaving, member.verified) {
        (true, _) => ("leaving".to_owned(), YELLOW),
        (false, true) => ("verified".to_owned(), GREEN),
        (false, false) => (String::new(), DIM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, key_changed: bool) -> GroupMember {
        let (admin, verified) = (name == "alice", name != "carol");
        GroupMember { name: name.into(), admin, devices: 2, verified, key_changed, leaving: false }
    }

    fn group(name: &str, state: GroupState) -> Group {
        Group {
            id: "g".into(),
            account: "alice@h:1".into(),
            name: name.into(),
            topic: "troubles".into(),
            chat: "c".into(),
            members: vec![member("alice", false), member("bob", false)],
            admin: true,
            state,
            epoch: 7,
            authenticator: "ab".repeat(48),
            pending: Vec::new(),
            unread: 0,
            created_at_ms: 1,
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn groups_that_have_ended_stand_last_and_claim_no_members() {
        let groups = [group("old", GroupState::Left), group("ops", GroupState::Active)];
        assert_eq!(plain(&list(&groups, 80)), "ops  2 members  admin  troubles\nold             left\n");
    }

    #[test]
    fn groups_of_one_name_show_their_ids() {
        let other = Group { id: "g2".into(), ..group("ops", GroupState::Active) };
        let shown = plain(&list(&[group("ops", GroupState::Active), other, group("lab", GroupState::Active)], 80));
        assert!(shown.starts_with("ops  g   2 members  admin  troubles\nops  g2  2 members"), "{shown}");
        assert!(shown.ends_with("\nlab      2 members  admin  troubles\n"), "{shown}");
    }

    #[test]
    fn a_changed_key_is_told_before_everything_else() {
        let mut ops = Group { pending: vec!["adding dave".into()], ..group("ops", GroupState::Active) };
        assert!(plain(&list(std::slice::from_ref(&ops), 200)).contains("adding dave"));
        ops.members.push(member("carol", true));
        let shown = plain(&list(std::slice::from_ref(&ops), 40));
        assert!(shown.contains("held: key of carol changed; fastchatctl key show carol"), "{shown}");
        assert!(plain(&page(&ops, &Clock::system())).contains("  carol         2 devices  key changed;"));
    }

    #[test]
    fn the_page_tells_who_is_who_and_what_is_under_way() {
        let ops = Group { pending: vec!["adding dave".into()], ..group("ops", GroupState::Active) };
        let shown = plain(&page(&ops, &Clock::system()));
        for line in
            ["state          active, you are an admin", "pending        adding dave", "2 members", "epoch          7"]
        {
            assert!(shown.contains(line), "{line}: {shown}");
        }
        assert!(shown.contains("  alice  admin  2 devices  you\n  bob           2 devices  verified\n"), "{shown}");
        assert!(shown.contains("authenticator  abab abab abab abab abab abab abab abab\n"), "{shown}");
    }
}
