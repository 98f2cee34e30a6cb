//! Who had which address when, as far as it can be known.
//!
//! Which changes there were, and in which order those of one account, is known exactly: each was written down in its own transaction,
//! behind the lock of the account's row. When others came to see a change is known as a window: after its COMMIT was sent, and before
//! that was answered.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use magic_link_harness::Redeemed;

use crate::actions::Object;
use crate::journal::{Answer, Deed, Entry, Hold, Token, What, Window};
use crate::tables::{Changed, Tables};

/// A time for which an account had an address.
struct Period {
    email: String,
    begin: Window,
    /// None where it lasts.
    end: Option<Window>,
}

#[derive(Default)]
struct Account {
    /// By others than redemptions, in their order.
    changes: Vec<Changed>,
    periods: Vec<Period>,
}

pub struct Addresses<'a> {
    accounts: HashMap<String, Account>,
    journal: &'a [Entry],
}

/// A call that redeemed, in an acknowledged transaction.
struct Call<'a> {
    entry: &'a Entry,
    place: usize,
    deed: &'a Deed,
}

impl<'a> Addresses<'a> {
    pub fn new(tables: &Tables, journal: &'a [Entry]) -> Self {
        let mut accounts: HashMap<String, Account> = HashMap::new();
        for user in tables.users.keys() {
            accounts.entry(user.clone()).or_default();
        }
        for changed in &tables.changes {
            let account = accounts.entry(changed.user.clone()).or_default();
            account.changes.push(changed.clone());
        }
        let commits: HashMap<i64, Window> = journal
            .iter()
            .map(|entry| (entry.piece, entry.commit))
            .collect();
        let created = creations(journal);
        for (user, account) in &mut accounts {
            let created = created.get(user.as_str()).copied();
            let created = created.unwrap_or_else(Window::of_any_time);
            account.periods = periods(&account.changes, tables.users.get(user), created, &commits);
        }
        Self { accounts, journal }
    }

    /// Whether somebody else than a redemption made the account.
    pub fn is_registered(&self, user: &str) -> bool {
        let first = |account: &Account| account.changes.first().map(|first| first.old.is_none());
        self.accounts.get(user).and_then(first).unwrap_or(false)
    }

    pub fn is_deleted(&self, user: &str) -> bool {
        let last = |account: &Account| account.changes.last().map(|last| last.new.is_none());
        self.accounts.get(user).and_then(last).unwrap_or(false)
    }

    /// Whether the account had the address at any time.
    pub fn ever_had(&self, user: &str, email: &str) -> bool {
        self.periods_of(user)
            .iter()
            .any(|period| period.email == email)
    }

    /// An account's address changes by a change that somebody made, and by nothing else.
    pub fn changed_by_nobody(&self, tables: &Tables) -> Vec<String> {
        let mut wrong = vec![];
        for (user, account) in &self.accounts {
            let olds = account.changes.iter().skip(1).map(|change| &change.old);
            let now = tables.users.get(user).cloned();
            let expected: Vec<_> = olds.cloned().chain([now]).collect();
            let made: Vec<_> = account.changes.iter().map(|c| c.new.clone()).collect();
            if !made.is_empty() && made != expected {
                wrong.push(format!(
                    "the account {user} was given {made:?} and had {expected:?}"
                ));
            }
        }
        wrong
    }

    /// Each acknowledged redemption answers an account that had the token's address when it looked: behind the token's lock, and
    /// before it answered. Whose transaction joins organizations keeps the account at its address until it ends. And where it says
    /// that nobody has the address, there was a moment at which it may have been so.
    pub fn wrong_accounts(&self, holds: &[Hold]) -> Vec<String> {
        let of_call = |call: Call| match (&call.deed.what, &call.deed.answer) {
            (What::Redeem(token), Some(Answer::Redeemed(answer))) => {
                self.redeemed(&call, token, answer, holds)
            }
            (What::Redeem(token), Some(Answer::Word(word))) if word == "user_not_found" => {
                self.overlooked(&call, token).into_iter().collect()
            }
            _ => vec![],
        };
        self.calls().flat_map(of_call).collect()
    }

    fn redeemed(
        &self,
        call: &Call,
        token: &Token,
        answer: &Redeemed,
        holds: &[Hold],
    ) -> Vec<String> {
        let (at, user) = (answer.redeemed_at, &answer.user_id);
        let during = call.deed.during;
        let held = holds.iter().filter(|hold| hold.token == token.id);
        // Whoever redeemed it before, and did not commit, had the lock until then.
        let locked = held.map(|hold| hold.until).fold(during.from, Ord::max);
        let mut wrong = vec![];
        if !is_not_before(at, locked) || !during.may_be_after(at) {
            wrong.push(format!(
                "{token:?} was redeemed at {}, and locked between {} and {}",
                shown(at),
                shown(locked),
                during.to.map_or("?".to_owned(), shown)
            ));
        }
        if let Some(own) = self.own_view(user, call) {
            if own != Some(token.email) {
                wrong.push(format!(
                    "{token:?} was redeemed by {user}, whom its transaction gave {own:?}"
                ));
            }
            return wrong;
        }
        let since = at.max(locked);
        let answered = during.to.unwrap_or(since);
        let joins = !token.terms.organizations.is_empty();
        // Whose commit was asked for had the user's lock until then.
        let kept = if joins {
            since.max(call.entry.commit.from)
        } else {
            since
        };
        let had = |period: &Period| {
            period.email == token.email
                && period.begin.may_be_by(answered)
                && period.end.is_none_or(|end| end.may_be_after(kept))
        };
        let periods = self.periods_of(user);
        if !periods.iter().any(had) {
            wrong.push(format!(
                "{token:?} was redeemed by {user} between {} and {}, joining: {joins}, and the account had other addresses then: {periods:?}",
                shown(since),
                shown(answered)
            ));
        }
        wrong
    }

    /// An account that had the address all the while.
    fn overlooked(&self, call: &Call, token: &Token) -> Option<String> {
        let before = &call.entry.deeds[..call.place];
        let own =
            |deed: &Deed| matches!(deed.what, What::Change(_) | What::Remove(Object::User(_)));
        if before.iter().any(own) {
            return None;
        }
        let during = call.deed.during;
        let had = |period: &Period| {
            period.email == token.email
                && !period.begin.may_be_after(during.from)
                && !during
                    .to
                    .is_none_or(|to| period.end.is_some_and(|end| end.may_be_by(to)))
        };
        let account = self
            .accounts
            .iter()
            .find(|(_, account)| account.periods.iter().any(had));
        account.map(|(user, account)| {
            format!(
                "{token:?} had no user at {}, and {user} was there: {:?}",
                shown(during.from),
                account.periods
            )
        })
    }

    fn periods_of(&self, user: &str) -> &[Period] {
        self.accounts
            .get(user)
            .map_or(&[], |account| account.periods.as_slice())
    }

    fn calls(&self) -> impl Iterator<Item = Call<'a>> + use<'a> {
        let acknowledged = self.journal.iter().filter(|entry| entry.acknowledged);
        acknowledged.flat_map(|entry| {
            let deeds = entry.deeds.iter().enumerate();
            deeds.map(move |(place, deed)| Call { entry, place, deed })
        })
    }

    /// The account's address as the transaction itself had made it before the call, if it had: then nobody else could change it.
    /// The inner None is a deleted account.
    fn own_view(&self, user: &str, call: &Call) -> Option<Option<&str>> {
        let account = self.accounts.get(user)?;
        let own = |changed: &&Changed| {
            changed.piece == call.entry.piece && (changed.deed as usize) < call.place
        };
        if let Some(last) = account.changes.iter().rev().find(own) {
            return Some(last.new.as_deref());
        }
        let deeds = &call.entry.deeds[..=call.place];
        let made_here = deeds.iter().any(|deed| created_by(deed) == Some(user));
        let first = account.periods.first().map(|period| period.email.as_str());
        made_here.then_some(first)
    }
}

/// Whom a redemption created.
fn created_by(deed: &Deed) -> Option<&str> {
    match (&deed.what, &deed.answer) {
        (What::Redeem(_), Some(Answer::Redeemed(answer))) if answer.user_created => {
            Some(&answer.user_id)
        }
        _ => None,
    }
}

/// When others came to see the accounts that redemptions created, of which somebody has heard.
fn creations(journal: &[Entry]) -> HashMap<&str, Window> {
    let mut creations = HashMap::new();
    for entry in journal {
        let created = entry.deeds.iter().filter_map(created_by);
        creations.extend(created.map(|user| (user, entry.commit)));
    }
    creations
}

/// The times of an account, one after the other. `now` is its address at the end.
fn periods(
    changes: &[Changed],
    now: Option<&String>,
    created: Window,
    commits: &HashMap<i64, Window>,
) -> Vec<Period> {
    let first = match changes.first() {
        Some(first) => first.old.clone(),
        None => now.cloned(),
    };
    let mut emails = vec![first];
    emails.extend(changes.iter().map(|change| change.new.clone()));
    let of_change = |change: &Changed| commits.get(&change.piece).copied();
    let of_change = |change| of_change(change).unwrap_or_else(Window::of_any_time);
    let mut windows = vec![created];
    windows.extend(changes.iter().map(of_change));
    in_order(&mut windows);
    let ends = windows.iter().copied().skip(1).map(Some).chain([None]);
    let times = emails.into_iter().zip(windows.iter().copied().zip(ends));
    times
        .filter_map(|(email, (begin, end))| email.map(|email| Period { email, begin, end }))
        .collect()
}

/// None of them came about before the one that it follows.
fn in_order(windows: &mut [Window]) {
    let mut from = SystemTime::UNIX_EPOCH;
    for window in windows.iter_mut() {
        from = from.max(window.from);
        window.from = from;
    }
    let mut to = None;
    for window in windows.iter_mut().rev() {
        to = earlier(to, window.to);
        window.to = to;
    }
}

/// Of two ends, the one that is known to come first.
fn earlier(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = |window: Window| window.to.map_or("?".to_owned(), shown);
        let (begin, end) = (self.begin, self.end);
        write!(
            f,
            "{} from {}..{}",
            self.email,
            shown(begin.from),
            to(begin)
        )?;
        match end {
            Some(end) => write!(f, " to {}..{}", shown(end.from), to(end)),
            None => write!(f, " to the end"),
        }
    }
}

/// In seconds, of which the last thousand are enough to tell moments of a round apart.
fn shown(moment: SystemTime) -> String {
    let since = moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}.{:06}", since.as_secs() % 1000, since.subsec_micros())
}

/// The server's clock has no more than microseconds.
fn is_not_before(moment: SystemTime, other: SystemTime) -> bool {
    moment + Duration::from_micros(1) > other
}

/// How many were redeemed that somebody else had redeemed, and gave back, since they were asked for.
pub fn second_clicks(journal: &[Entry], holds: &[Hold]) -> usize {
    let deeds = journal
        .iter()
        .filter(|entry| entry.acknowledged)
        .flat_map(|entry| &entry.deeds);
    deeds
        .filter(|deed| match (&deed.what, &deed.answer) {
            (What::Redeem(token), Some(Answer::Redeemed(_))) => holds
                .iter()
                .any(|hold| hold.token == token.id && hold.until > deed.during.from),
            _ => false,
        })
        .count()
}
