//! What has to hold when everybody has stopped: what is in the tables against what the clients saw.
//!
//! Where a concurrent deletion makes two ends possible, the journal knows which ones: an object may be missing only if a deletion of it,
//! acknowledged or unheard of, ended after what needs it had started. What nobody deletes has no such excuse.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use magic_link_harness::{Database, Redeemed};
use uuid::Uuid;

use crate::actions::{Object, Round};
use crate::journal::{Answer, Deed, Entry, Token, What};
use crate::world::{ORGANIZATION_OF_DOMAIN, is_kept};

/// A row of the ledger.
struct Row {
    email: String,
    consumed: Option<(SystemTime, String)>,
    revoked: bool,
    failed_attempts: i32,
    event: Option<String>,
    active: bool,
}

struct Tables {
    tokens: HashMap<Uuid, Row>,
    users: HashMap<String, String>,
    memberships: BTreeSet<(String, String)>,
    roles: BTreeSet<(String, String, String)>,
}

/// A redemption that was acknowledged, or may have happened.
struct Redemption<'a> {
    entry: &'a Entry,
    answer: Option<&'a Redeemed>,
}

struct Check<'a> {
    round: &'a Round,
    journal: &'a [Entry],
    tables: Tables,
    tokens: Vec<Arc<Token>>,
    wrong: Vec<String>,
    /// The roles that a redemption could give a user in an organization.
    explained: HashMap<(String, String), HashSet<&'static str>>,
    consumers: HashSet<String>,
}

/// Everything that does not hold, in words.
pub fn violations(database: &Database, round: &Round, journal: &[Entry]) -> Vec<String> {
    let issued = journal.iter().flat_map(|entry| &entry.deeds);
    let tokens = issued.flat_map(|deed| match &deed.answer {
        Some(Answer::Issued(tokens)) => tokens.clone(),
        _ => vec![],
    });
    let mut check = Check {
        round,
        journal,
        tables: Tables::read(database),
        tokens: tokens.collect(),
        wrong: inconsistencies(database, round),
        explained: HashMap::new(),
        consumers: HashSet::new(),
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
        let journal = self.journal;
        let mine = |deed: &&Deed| matches!(&deed.what, What::Redeem(other) if other.id == token.id);
        let (mut acknowledged, mut unheard_of) = (vec![], vec![]);
        for entry in journal {
            for deed in entry.deeds.iter().filter(mine) {
                match (&deed.answer, entry.acknowledged) {
                    (Some(Answer::Redeemed(answer)), true) => acknowledged.push(Redemption {
                        entry,
                        answer: Some(answer),
                    }),
                    (Some(Answer::Redeemed(answer)), false) => unheard_of.push(Redemption {
                        entry,
                        answer: Some(answer),
                    }),
                    (None, false) => unheard_of.push(Redemption {
                        entry,
                        answer: None,
                    }),
                    _ => {}
                }
            }
        }
        self.claim(acknowledged.len() <= 1, || {
            format!("{token:?} was redeemed {} times", acknowledged.len())
        });
        let row = self.tables.tokens.get(&token.id);
        let consumed = row.and_then(|row| row.consumed.clone());
        let there = row.is_some();
        if let Some(redemption) = acknowledged.first() {
            let answer = redemption.answer.expect("acknowledged");
            let same = !there || consumed == Some((answer.redeemed_at, answer.user_id.clone()));
            self.claim(same, || {
                format!(
                    "the redemption of {token:?} was acknowledged, and the row says {consumed:?}"
                )
            });
            self.settled(token, redemption, &answer.user_id);
        } else if let Some((at, by)) = consumed {
            let of_row = |redemption: &&Redemption| {
                redemption
                    .answer
                    .is_none_or(|answer| answer.redeemed_at == at && answer.user_id == by)
            };
            match unheard_of.iter().find(of_row) {
                Some(redemption) => self.settled(token, redemption, &by),
                None => self
                    .wrong
                    .push(format!("{token:?} is consumed, and nobody redeemed it")),
            }
        } else if !there && !unheard_of.is_empty() {
            // It may have been redeemed and then deleted.
            let users: Vec<_> = self
                .tables
                .users
                .iter()
                .filter(|(_, email)| *email == token.email)
                .map(|(id, _)| id.clone())
                .collect();
            for user in users {
                self.explain(token, &user);
            }
        }
    }

    /// A redeemed token has its user and every membership, but for what was deleted afterwards.
    fn settled(&mut self, token: &Token, redemption: &Redemption, user: &str) {
        self.explain(token, user);
        let start = redemption.entry.start;
        let excused = self.may_be_gone(Object::User(token.email), start);
        if self.tables.users.get(user).map(String::as_str) != Some(token.email) {
            // A user's id never comes back.
            return self.claim(excused, || {
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
        let there = Object::Organization(organization);
        let answer = redemption.answer.and_then(|answer| {
            let mut all = answer.memberships.as_array().into_iter().flatten();
            all.find(|one| one["organizationId"] == organization)
        });
        let missing = answer.is_some_and(|answer| answer["status"] == "organization_missing");
        let excused = match answer {
            _ if is_kept(organization) => false,
            Some(_) if missing => self.may_be_gone(there, 0),
            Some(_) => self.may_be_gone(there, start),
            None => self.may_be_gone(there, 0),
        };
        if missing {
            return self.claim(excused, || {
                format!("{token:?}: {organization} was never deleted, and is missing")
            });
        }
        let membership = (organization.to_owned(), user.to_owned());
        if !self.tables.memberships.contains(&membership) {
            let excused =
                excused || self.may_be_gone(Object::Membership(organization, token.email), start);
            return self.claim(excused, || {
                format!("{token:?} was redeemed, and the membership in {organization} is lost")
            });
        }
        let left =
            excused || self.may_be_gone(Object::Membership(organization, token.email), start);
        let kept = token
            .terms
            .roles_in(organization)
            .iter()
            .copied()
            .filter(|role| is_kept(role));
        let told = answer.map(|answer| {
            answer["roleIds"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|role| role.as_str())
        });
        let kept: Vec<&str> = kept.collect();
        let told: Option<Vec<&str>> = told.map(Iterator::collect);
        let complete = told
            .as_ref()
            .is_none_or(|told| kept.iter().all(|role| told.contains(role)));
        self.claim(complete, || {
            format!("{token:?}: the answer for {organization} lacks a role of {kept:?}: {told:?}")
        });
        for role in told.unwrap_or(kept) {
            let (organization, user) = membership.clone();
            let held = self
                .tables
                .roles
                .contains(&(organization, user, role.to_owned()));
            // Another redemption may have joined again after a deletion, with other roles.
            let known = crate::world::ROLES.into_iter().find(|known| *known == role);
            let excused = left
                || known.is_some_and(|role| {
                    !is_kept(role) && self.may_be_gone(Object::Role(role), start)
                });
            self.claim(held || excused, || {
                format!(
                    "{token:?} was redeemed, and the role {role} in {} is lost",
                    membership.0
                )
            });
        }
    }

    fn explain(&mut self, token: &Token, user: &str) {
        self.consumers.insert(user.to_owned());
        let domain = is_kept(token.email).then_some(ORGANIZATION_OF_DOMAIN);
        for organization in token.terms.organizations.iter().copied().chain(domain) {
            let key = (organization.to_owned(), user.to_owned());
            let roles = token.terms.roles_in(organization);
            self.explained.entry(key).or_default().extend(roles);
        }
    }

    /// Who is there, and where, is so by a redemption.
    fn directory(&mut self) {
        let users: Vec<_> = self.tables.users.keys().cloned().collect();
        for user in users {
            let known = self.consumers.contains(&user);
            self.claim(known, || format!("no redemption made the user {user}"));
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
        for Deed { what, answer } in &entry.deeds {
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
        let strangers = self
            .tables
            .tokens
            .keys()
            .filter(|id| !known.contains(id))
            .count() as i64;
        self.claim(strangers <= may_add, || {
            format!("{strangers} tokens that nobody created")
        });
    }
}

impl Tables {
    fn read(database: &Database) -> Self {
        let mut superuser = database.superuser();
        let mut read = |query: &str| {
            superuser
                .query(query, &[])
                .expect("a table that cannot be read")
        };
        let tokens = read(
            "SELECT t.id, t.email, t.consumed_at, t.consumed_by, t.revoked_at IS NOT NULL, t.failed_attempts, t.interaction_event,
                    s.status = 'active'
               FROM magic_link.one_time_tokens AS t JOIN magic_link.one_time_token_status AS s USING (id)",
        );
        let tokens = tokens.iter().map(|row| {
            let consumed_by: Option<String> = row.get(3);
            let consumed = row.get::<_, Option<SystemTime>>(2).zip(consumed_by);
            (
                row.get(0),
                Row {
                    email: row.get(1),
                    consumed,
                    revoked: row.get(4),
                    failed_attempts: row.get(5),
                    event: row.get(6),
                    active: row.get(7),
                },
            )
        });
        let users = read("SELECT id::text, email FROM magic_link.users");
        let memberships =
            read("SELECT organization_id, user_id::text FROM magic_link.organization_memberships");
        let roles = read(
            "SELECT organization_id, user_id::text, organization_role_id FROM magic_link.organization_membership_roles",
        );
        Self {
            tokens: tokens.collect(),
            users: users.iter().map(|row| (row.get(0), row.get(1))).collect(),
            memberships: memberships
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect(),
            roles: roles
                .iter()
                .map(|row| (row.get(0), row.get(1), row.get(2)))
                .collect(),
        }
    }
}

/// What the tables say against themselves: queries that answer only what is wrong.
const CONTRADICTIONS: [&str; 5] = [
    "SELECT 'unsound: ' || t.id FROM magic_link.one_time_tokens AS t
      WHERE NOT magic_link.one_time_token_is_sound(t) OR (t.consumed_at IS NULL) <> (t.consumed_by IS NULL)
         OR t.consumed_at IS NOT NULL AND t.revoked_at IS NOT NULL OR octet_length(t.token_hash) <> 32
         OR t.consumed_at < t.created_at OR t.consumed_at >= t.expires_at OR t.revoked_at < t.created_at",
    "SELECT 'status ' || s.status || ': ' || s.id FROM magic_link.one_time_token_status AS s
      WHERE s.status IS DISTINCT FROM CASE WHEN s.consumed_at IS NOT NULL THEN 'consumed' WHEN s.revoked_at IS NOT NULL THEN 'revoked'
                    WHEN s.expires_at <= now() THEN 'expired' ELSE 'active' END
        AND NOT (s.status = 'expired' AND s.expires_at <= clock_timestamp())",
    "SELECT 'membership of nobody or nothing: ' || m::text FROM magic_link.organization_memberships AS m
      WHERE NOT EXISTS (SELECT FROM magic_link.users AS u WHERE u.id = m.user_id)
         OR NOT EXISTS (SELECT FROM magic_link.organizations AS o WHERE o.id = m.organization_id)",
    "SELECT 'role of no member: ' || r::text FROM magic_link.organization_membership_roles AS r
      WHERE NOT EXISTS (SELECT FROM magic_link.organization_memberships AS m
                         WHERE m.organization_id = r.organization_id AND m.user_id = r.user_id)
         OR NOT EXISTS (SELECT FROM magic_link.organization_roles AS o WHERE o.id = r.organization_role_id)",
    "SELECT c.oid::regclass || ': ' || v.msg FROM pg_class AS c, verify_heapam(c.oid) AS v
      WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind = 'r'",
];

/// Whoever created a token had others of its address beside it, which had not ended by then: as many as the settings allow. So a
/// limit that was passed for a moment is seen at the end.
const TOO_MANY_ACTIVE: &str = "
    SELECT 'too many active tokens: ' || t.email
      FROM magic_link.one_time_tokens AS t JOIN magic_link.one_time_tokens AS o
        ON o.email = t.email AND o.created_at <= t.created_at
       AND LEAST(o.consumed_at, o.revoked_at, o.expires_at) > t.created_at
     GROUP BY t.id, t.email
    HAVING count(*) > $1 OR count(*) FILTER (WHERE o.interaction_event IS NOT DISTINCT FROM t.interaction_event) > $2";

fn inconsistencies(database: &Database, round: &Round) -> Vec<String> {
    let mut superuser = database.superuser();
    superuser
        .batch_execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        .expect("amcheck comes with the server");
    let mut wrong = vec![];
    for query in CONTRADICTIONS {
        let rows = superuser.query(query, &[]).expect("no answer");
        wrong.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    // Without a limit the answers are the same as with one that nobody reaches.
    let most = if round.max_active > 0 {
        round.max_active as i64
    } else {
        i64::MAX
    };
    let of_event = if round.revoke_previous { 1 } else { i64::MAX };
    let rows = superuser
        .query(TOO_MANY_ACTIVE, &[&most, &of_event])
        .expect("no answer");
    wrong.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    let indexes = "SELECT count(bt_index_check(i.indexrelid, true)) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
                    WHERE c.relnamespace = 'magic_link'::regnamespace";
    match superuser.query_one(indexes, &[]) {
        Ok(checked) => assert!(checked.get::<_, i64>(0) > 8, "the indexes are elsewhere"),
        Err(error) => wrong.push(format!("an index is broken: {error:?}")),
    }
    wrong
}
