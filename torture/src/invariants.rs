//! What has to hold when everybody has stopped: what is in the tables against what the clients saw.
//!
//! Where a concurrent deletion makes two ends possible, the journal knows which ones: an object may be missing only if a deletion of it,
//! acknowledged or unheard of, ended after what needs it had started. What nobody deletes has no such excuse. Of an account every
//! change but a redemption's is known, so it has none either.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use magic_link_harness::{Database, Redeemed};
use uuid::Uuid;

use crate::actions::{Object, Round};
use crate::addresses::Addresses;
use crate::journal::{Answer, Deed, Entry, Hold, Token, What};
use crate::tables::{Tables, inconsistencies};
use crate::world::{ORGANIZATION_OF_DOMAIN, ROLES, is_kept};

/// A redemption that was acknowledged, or may have happened.
struct Redemption<'a> {
    entry: &'a Entry,
    answer: Option<&'a Redeemed>,
}

struct Check<'a> {
    round: &'a Round,
    journal: &'a [Entry],
    addresses: Addresses<'a>,
    tables: Tables,
    tokens: Vec<Arc<Token>>,
    wrong: Vec<String>,
    /// The roles that a redemption could give a user in an organization.
    explained: HashMap<(String, String), HashSet<&'static str>>,
    /// Whom a redemption created, or may have.
    created: HashSet<String>,
}

/// Everything that does not hold, in words.
pub fn violations(
    database: &Database,
    round: &Round,
    journal: &[Entry],
    holds: &[Hold],
) -> Vec<String> {
    let issued = journal.iter().flat_map(|entry| &entry.deeds);
    let tokens = issued.flat_map(|deed| match &deed.answer {
        Some(Answer::Issued(tokens)) => tokens.clone(),
        _ => vec![],
    });
    let tables = Tables::read(database);
    let addresses = Addresses::new(&tables, journal);
    let wrong = [
        inconsistencies(database, round),
        addresses.changed_by_nobody(&tables),
        addresses.wrong_accounts(holds),
    ];
    let mut check = Check {
        round,
        journal,
        addresses,
        tables,
        tokens: tokens.collect(),
        wrong: wrong.concat(),
        explained: HashMap::new(),
        created: HashSet::new(),
    };
    check.all();
    check.wrong
}

impl<'a> Check<'a> {
    fn all(&mut self) {
        for token in self.tokens.clone() {
            self.token(&token);
            self.redemptions(&token);
        }
        for entry in self.journal {
            self.answers(entry);
            if !entry.acknowledged {
                self.all_or_nothing(entry);
            }
        }
        for token in self.tokens.clone() {
            self.failed_attempts(&token);
        }
        self.directory();
        self.conservation();
    }

    fn claim(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    fn deeds(&self) -> impl Iterator<Item = (&'a Entry, &'a Deed)> + use<'a> {
        let of_entry = |entry: &'a Entry| entry.deeds.iter().map(move |deed| (entry, deed));
        self.journal.iter().flat_map(of_entry)
    }

    /// Whether the object may have been deleted after `start`.
    fn may_be_gone(&self, object: Object, start: u64) -> bool {
        self.deeds().any(|(entry, deed)| {
            entry.end >= start && matches!(&deed.what, What::Remove(removed) if *removed == object)
        })
    }

    /// Whether the membership may have been deleted after `start`, under any address of the user.
    fn may_have_left(&self, user: &str, organization: &str, start: u64) -> bool {
        self.deeds().any(|(entry, deed)| match &deed.what {
            What::Remove(Object::Membership(of, email)) => {
                entry.end >= start && *of == organization && self.addresses.ever_had(user, email)
            }
            _ => false,
        })
    }

    /// Whether the row may have been deleted: by its id, or by a purge after it ended.
    fn may_be_deleted(&self, token: &Token) -> bool {
        let (mut deleted, mut purged, mut mistakes) = (false, false, 0);
        let mut ended = token.terms.lifetime.is_some() || self.round.revoke_previous;
        for (_, deed) in self.deeds() {
            match (&deed.what, &deed.answer) {
                (What::Delete(id), answer) if id.id == token.id => {
                    deleted |= !matches!(answer, Some(Answer::Count(0)));
                }
                (What::Purge, _) => purged = true,
                (What::Redeem(id), Some(Answer::Redeemed(_)) | None) => ended |= id.id == token.id,
                (What::Revoke(id), _) => ended |= id.id == token.id,
                (What::RevokeAll(email), _) => ended |= *email == token.email,
                (What::Mistake(id), _) => mistakes += u32::from(id.id == token.id),
                _ => {}
            }
        }
        deleted || purged && (ended || mistakes >= 5)
    }

    /// A token that a client was given for good is there, as what it was given for.
    fn token(&mut self, token: &Token) {
        let created = self.deeds().find(|(_, deed)| {
            matches!(&deed.answer, Some(Answer::Issued(issued)) if issued.iter().any(|other| other.id == token.id))
        });
        let acknowledged = created.is_some_and(|(entry, _)| entry.acknowledged);
        match self.tables.tokens.get(&token.id) {
            Some(row) => {
                let same = row.email == token.email && row.event.as_deref() == token.terms.event;
                self.claim(same, || format!("{token:?} was changed"));
            }
            None => {
                let excused = !acknowledged || self.may_be_deleted(token);
                self.claim(excused, || {
                    format!("{token:?} was created, acknowledged, and is lost")
                });
            }
        }
    }

    fn redemptions(&mut self, token: &Token) {
        let (acknowledged, unheard_of) = self.redemptions_of(token);
        let times = acknowledged.len();
        self.claim(times <= 1, || {
            format!("{token:?} was redeemed {times} times")
        });
        let row = self.tables.tokens.get(&token.id);
        let consumed = row.and_then(|row| row.consumed.clone());
        let there = row.is_some();
        if let Some((redemption, answer)) = acknowledged
            .first()
            .and_then(|one| Some((one, one.answer?)))
        {
            let same = !there
                || consumed
                    .as_ref()
                    .is_some_and(|consumed| is_told(answer, consumed));
            self.claim(same, || {
                format!(
                    "the redemption of {token:?} was acknowledged, and the row says {consumed:?}"
                )
            });
            self.settled(token, redemption, &answer.user_id);
        } else if let Some(consumed) = consumed {
            let of_row =
                |one: &&Redemption| one.answer.is_none_or(|answer| is_told(answer, &consumed));
            match unheard_of.iter().find(of_row) {
                Some(redemption) => self.settled(token, redemption, &consumed.1),
                None => self
                    .wrong
                    .push(format!("{token:?} is consumed, and nobody redeemed it")),
            }
        } else if !there && !unheard_of.is_empty() {
            // It may have been redeemed and then deleted.
            let users = self.tables.users.keys();
            let users = users.filter(|user| self.addresses.ever_had(user, token.email));
            for user in users.cloned().collect::<Vec<_>>() {
                self.explain(token, &user, true);
            }
        }
    }

    /// Those that were acknowledged, and those that may have happened.
    fn redemptions_of(&self, token: &Token) -> (Vec<Redemption<'a>>, Vec<Redemption<'a>>) {
        let mine = |deed: &Deed| matches!(&deed.what, What::Redeem(other) if other.id == token.id);
        let redemptions =
            self.deeds()
                .filter(|(_, deed)| mine(deed))
                .filter_map(|(entry, deed)| match &deed.answer {
                    Some(Answer::Redeemed(answer)) => Some(Redemption {
                        entry,
                        answer: Some(answer),
                    }),
                    None => Some(Redemption {
                        entry,
                        answer: None,
                    }),
                    Some(_) => None,
                });
        redemptions.partition(|redemption| redemption.entry.acknowledged)
    }

    /// A redeemed token has its user and every membership, but for what was deleted afterwards.
    fn settled(&mut self, token: &Token, redemption: &Redemption, user: &str) {
        let may_have_created = redemption.answer.is_none_or(|answer| answer.user_created);
        self.explain(token, user, may_have_created);
        if !self.tables.users.contains_key(user) {
            // A user's id never comes back.
            let deleted = self.addresses.is_deleted(user);
            return self.claim(deleted, || {
                format!("{token:?} was redeemed by {user}, who is lost")
            });
        }
        let mut organizations: Vec<&'static str> = token.terms.organizations.clone();
        if redemption.answer.is_some_and(|answer| answer.user_created) && is_kept(token.email) {
            organizations.push(ORGANIZATION_OF_DOMAIN);
        }
        organizations.sort_unstable();
        organizations.dedup();
        if let Some(answer) = redemption.answer {
            let named: Vec<_> = answer
                .memberships
                .as_array()
                .into_iter()
                .flatten()
                .map(|one| one["organizationId"].as_str())
                .collect();
            let expected: Vec<_> = organizations.iter().copied().map(Some).collect();
            self.claim(named == expected, || {
                format!("{token:?} names {expected:?}, and the answer {named:?}")
            });
        }
        for organization in organizations {
            self.joined(token, redemption, user, organization);
        }
    }

    fn joined(
        &mut self,
        token: &Token,
        redemption: &Redemption,
        user: &str,
        organization: &'static str,
    ) {
        let start = redemption.entry.start;
        let answer = redemption.answer.and_then(|answer| {
            let mut all = answer.memberships.as_array().into_iter().flatten();
            all.find(|one| one["organizationId"] == organization)
        });
        let missing = answer.is_some_and(|answer| answer["status"] == "organization_missing");
        // Whoever was not told otherwise may have found it missing.
        let since = if answer.is_none() || missing {
            0
        } else {
            start
        };
        let deleted = self.may_be_gone(Object::Organization(organization), since);
        if missing {
            return self.claim(deleted, || {
                format!("{token:?}: {organization} was never deleted, and is missing")
            });
        }
        let left = deleted || self.may_have_left(user, organization, start);
        let membership = (organization.to_owned(), user.to_owned());
        if !self.tables.memberships.contains(&membership) {
            return self.claim(left, || {
                format!("{token:?} was redeemed, and the membership in {organization} is lost")
            });
        }
        let told: Option<Vec<&str>> = answer.map(|answer| {
            let roles = answer["roleIds"].as_array().into_iter().flatten();
            roles.filter_map(|role| role.as_str()).collect()
        });
        let granted = token.terms.roles_in(organization).iter().copied();
        for role in granted.filter(|role| is_kept(role)) {
            let given = told.as_ref().is_none_or(|told| told.contains(&role));
            self.claim(given, || {
                format!("{token:?}: the answer for {organization} lacks the role {role}")
            });
        }
        for role in ROLES {
            let expected = match &told {
                Some(told) => told.contains(&role),
                None => is_kept(role) && token.terms.roles_in(organization).contains(&role),
            };
            // Another redemption may have joined again after a deletion, with other roles.
            if !expected || left || self.may_be_gone(Object::Role(role), start) {
                continue;
            }
            let held = (organization.to_owned(), user.to_owned(), role.to_owned());
            let held = self.tables.roles.contains(&held);
            self.claim(held, || {
                format!("{token:?} was redeemed, and the role {role} in {organization} is lost")
            });
        }
    }

    fn explain(&mut self, token: &Token, user: &str, may_have_created: bool) {
        if may_have_created {
            self.created.insert(user.to_owned());
        }
        let domain = is_kept(token.email).then_some(ORGANIZATION_OF_DOMAIN);
        for organization in token.terms.organizations.iter().copied().chain(domain) {
            let key = (organization.to_owned(), user.to_owned());
            let roles = token.terms.roles_in(organization);
            self.explained.entry(key).or_default().extend(roles);
        }
    }

    /// Who is there is so by a redemption or was registered; who is where is so by a redemption.
    fn directory(&mut self) {
        let users: Vec<_> = self.tables.users.keys().cloned().collect();
        for user in users {
            let known = self.created.contains(&user) || self.addresses.is_registered(&user);
            self.claim(known, || format!("nobody made the user {user}"));
        }
        for membership in self.tables.memberships.clone() {
            let known = self.explained.contains_key(&membership);
            self.claim(known, || {
                format!("no redemption made the membership {membership:?}")
            });
        }
        for (organization, user, role) in self.tables.roles.clone() {
            let key = (organization, user);
            let known = self
                .explained
                .get(&key)
                .is_some_and(|roles| roles.contains(role.as_str()));
            self.claim(known, || {
                format!("no redemption gave {key:?} the role {role}")
            });
        }
    }

    /// What each acknowledged answer promises of the end, or of later calls.
    fn answers(&mut self, entry: &Entry) {
        if !entry.acknowledged {
            return;
        }
        for Deed { what, answer, .. } in &entry.deeds {
            let word = answer.as_ref().and_then(Answer::word);
            match (what, answer) {
                (What::Revoke(token), _) => {
                    let row = self.tables.tokens.get(&token.id);
                    let holds = row.is_none_or(|row| match word {
                        Some("revoked") => row.revoked,
                        Some("consumed") => row.consumed.is_some(),
                        Some("expired") => token.terms.lifetime.is_some(),
                        _ => false,
                    });
                    self.claim(holds, || {
                        format!("revoking {token:?} answered {word:?}, and it is not so")
                    });
                }
                (What::RevokeAll(email), _) => self.all_revoked(entry, email),
                (What::Delete(token), Some(Answer::Count(1))) => {
                    let gone = !self.tables.tokens.contains_key(&token.id);
                    self.claim(gone, || format!("{token:?} was deleted, and is there"));
                    self.nothing_after(entry, token, "deleted");
                }
                (What::Redeem(token), Some(Answer::Redeemed(_))) => {
                    self.nothing_after(entry, token, "redeemed")
                }
                _ => {}
            }
        }
    }

    fn all_revoked(&mut self, entry: &Entry, email: &str) {
        let created: Vec<_> = self
            .deeds()
            .filter(|(created, _)| created.end < entry.start)
            .filter_map(|(_, deed)| match &deed.answer {
                Some(Answer::Issued(tokens)) => Some(tokens.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        for token in created.iter().filter(|token| token.email == email) {
            let active = self
                .tables
                .tokens
                .get(&token.id)
                .is_some_and(|row| row.active);
            self.claim(!active, || {
                format!("all of {email} were revoked, and {token:?} is active")
            });
        }
    }

    /// Whoever starts after the end of this does not find the token redeemable, nor deletes it once more.
    fn nothing_after(&mut self, entry: &Entry, token: &Token, what: &str) {
        let again: Vec<String> = self
            .deeds()
            .filter(|(later, _)| later.start > entry.end && later.acknowledged)
            .filter(|(_, deed)| match (&deed.what, &deed.answer) {
                (What::Redeem(other), Some(Answer::Redeemed(_))) => other.id == token.id,
                (What::Check(other), Some(Answer::Word(word))) => {
                    other.id == token.id && word == "ok"
                }
                (What::Delete(other), Some(Answer::Count(1))) => {
                    other.id == token.id && what == "deleted"
                }
                _ => false,
            })
            .map(|(_, deed)| format!("{token:?} was {what}, and later: {:?}", deed.what))
            .collect();
        self.wrong.extend(again);
    }

    /// A transaction of which nobody heard has happened as a whole or not at all.
    fn all_or_nothing(&mut self, entry: &Entry) {
        let mut signs = BTreeMap::new();
        for deed in &entry.deeds {
            match (&deed.what, &deed.answer) {
                (_, Some(Answer::Issued(issued))) => {
                    for token in issued {
                        let there = self.tables.tokens.contains_key(&token.id);
                        if there || !self.may_be_deleted(token) {
                            signs.insert(format!("{token:?} is there"), there);
                        }
                    }
                }
                (What::Redeem(token), Some(Answer::Redeemed(answer))) => {
                    if let Some(row) = self.tables.tokens.get(&token.id) {
                        let by_this =
                            row.consumed == Some((answer.redeemed_at, answer.user_id.clone()));
                        signs.insert(format!("{token:?} is redeemed"), by_this);
                    }
                }
                (What::Change(_), Some(Answer::Count(count))) if *count > 0 => {
                    let there = self.tables.changes.iter().any(|c| c.piece == entry.piece);
                    signs.insert("addresses are changed".to_owned(), there);
                }
                _ => {}
            }
        }
        let whole = signs.values().collect::<HashSet<_>>().len() <= 1;
        self.claim(whole, || format!("half of a transaction: {signs:?}"));
    }

    /// Of an active token each acknowledged attempt is counted, of any other those before it ended.
    fn failed_attempts(&mut self, token: &Token) {
        let (mut acknowledged, mut unheard_of) = (0, 0);
        for (entry, deed) in self.deeds() {
            match &deed.what {
                What::Mistake(other) if other.id == token.id => {
                    match deed.answer.as_ref().map(Answer::word) {
                        Some(Some("email_mismatch")) if entry.acknowledged => acknowledged += 1,
                        Some(Some("email_mismatch")) | None => unheard_of += 1,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        let Some(row) = self.tables.tokens.get(&token.id) else {
            return;
        };
        let (counted, active) = (row.failed_attempts, row.active);
        let right = counted <= acknowledged + unheard_of
            && (!active || counted >= acknowledged && counted < 5);
        self.claim(right, || {
            format!("{token:?} (active: {active}) has {counted} failed attempts; acknowledged {acknowledged}, perhaps {unheard_of} more")
        });
    }

    /// As many rows as were created and not deleted, as the answers counted them.
    fn conservation(&mut self) {
        let (mut certain, mut may_add, mut may_take) = (0, 0, 0);
        let mut anything = false;
        for (entry, deed) in self.deeds() {
            match (&deed.what, &deed.answer, entry.acknowledged) {
                (What::Create(emails, _), _, true) => certain += emails.len() as i64,
                (What::Create(emails, _), _, false) => may_add += emails.len() as i64,
                (What::Delete(_) | What::Purge, Some(Answer::Count(count)), true) => {
                    certain -= count
                }
                (What::Delete(_), _, false) => may_take += 1,
                (What::Purge, _, false) => anything = true,
                _ => {}
            }
        }
        let rows = self.tables.tokens.len() as i64;
        let low = if anything { 0 } else { certain - may_take };
        let right = (low..=certain + may_add).contains(&rows);
        self.claim(right, || {
            format!(
                "{rows} tokens, where {low} to {} should be",
                certain + may_add
            )
        });
        let known: HashSet<Uuid> = self.tokens.iter().map(|token| token.id).collect();
        let unknown = self
            .tables
            .tokens
            .keys()
            .filter(|id| !known.contains(id))
            .count() as i64;
        self.claim(unknown <= may_add, || {
            format!("{unknown} tokens that nobody created")
        });
    }
}

/// Whether the row says what the answer did.
fn is_told(answer: &Redeemed, (at, by): &(SystemTime, String)) -> bool {
    answer.redeemed_at == *at && answer.user_id == *by
}
