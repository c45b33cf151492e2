//! Holds `docs/ipc.md` and the list of methods together.
//!
//! **Invariant**: what is callable is documented, and what is documented is callable.

use std::collections::BTreeSet;

use fastchat_ipc::{ErrorCode, METHODS};

const PAGE: &str = include_str!("../../../docs/ipc.md");

/// The first cells of the table of methods, `name` and `Interface.Member`.
fn documented() -> BTreeSet<(&'static str, &'static str)> {
    let rows = PAGE.lines().skip_while(|line| *line != "## Methods").skip_while(|line| !line.starts_with("| method |"));
    rows.skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let mut code = line.split('`').skip(1).step_by(2);
            Some((code.next()?, code.next()?))
        })
        .collect()
}

#[test]
fn the_page_documents_every_method_with_its_names_on_both_transports_and_no_other() {
    let listed: BTreeSet<_> = METHODS.iter().map(|method| (method.name, method.dbus)).collect();
    let documented = documented();
    assert_eq!(listed.difference(&documented).collect::<Vec<_>>(), Vec::<&(&str, &str)>::new(), "not on the page");
    assert_eq!(documented.difference(&listed).collect::<Vec<_>>(), Vec::<&(&str, &str)>::new(), "only on the page");
}

#[test]
fn every_code_on_the_page_is_one_of_the_api_with_its_number_name_and_exit_code() {
    let rows = PAGE.lines().skip_while(|line| !line.starts_with("| code | number |")).skip(2);
    let mut documented = 0;
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let code = serde_json::from_value::<ErrorCode>(cells[1].into()).map_err(|error| format!("{row}: {error}"));
        let code = code.expect("it is a code");
        let expected = (code.json_rpc().to_string(), code.dbus(), code.exit_code().to_string());
        assert_eq!((cells[2].to_owned(), cells[3], cells[4].to_owned()), expected, "{row}");
        documented += 1;
    }
    // The last variant: those before it are numbered without a gap.
    assert_eq!(documented, ErrorCode::GroupFull as usize + 1);
}
