//! Holds `docs/ipc.md` and the list of methods together.
//!
//! **Invariant**: what is callable is documented, and what is documented is callable.

use std::collections::BTreeSet;

use fastchat_ipc::METHODS;

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
