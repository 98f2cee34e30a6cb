//! Some thousand calls with hostile values. `make torture PARTS=hostile` makes such calls for as long as it is told to.

use std::collections::BTreeSet;

use magic_link_harness::Database;
use magic_link_torture::hostile::Hostile;

#[test]
fn hostile_values_are_answered_or_refused_and_nothing_breaks() {
    let database = Database::new();
    let mut hostile = Hostile::new(&database, 1);
    hostile.play(8000);
    hostile.assert_nothing_broke();
    let ends = |end: &str| hostile.ends.keys().filter(|(_, with)| with == end).count();
    let functions: BTreeSet<_> = hostile.ends.keys().map(|(function, _)| function).collect();
    assert_eq!(ends("answered"), functions.len(), "{:?}", hostile.ends);
    for end in [
        "42501", "22021", "22P02", "22023", "22004", "54001", "OT001", "OT002",
    ] {
        assert!(ends(end) > 0, "{end} {:?}", hostile.ends);
    }
}
