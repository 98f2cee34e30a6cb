//! What each connection is going to do. All of it is drawn beforehand, from the seed and the number of the connection alone; which
//! token "the third from the end" is, and who comes first, is the scheduler's choice and nobody's to repeat.

use std::sync::Arc;

use rand::rngs::ChaCha8Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::world::{ADDRESSES, ORGANIZATIONS, ROLES, is_kept};

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/// A stretch of work after which everybody stops and what is left is looked at.
#[derive(Debug, Clone)]
pub struct Round {
    pub seed: u64,
    pub number: u64,
    /// Each connection's pieces of work.
    pub pieces: usize,
    /// Whether a transaction may have several actions; these can meet crosswise (40P01), single calls never.
    pub several: bool,
    pub purges: bool,
    pub revoke_previous: bool,
    pub max_active: usize,
    /// Whether some pieces run under a statement_timeout.
    pub timeouts: bool,
}

/// One transaction, or one call on its own where it has no isolation level.
#[derive(Debug, PartialEq)]
pub struct Piece {
    pub isolation: Option<&'static str>,
    pub actions: Vec<Action>,
    pub commits: bool,
    pub timeout: bool,
    /// Whether it stays open for a while before it is rolled back: what it redeemed, others come to wait for.
    pub lingers: bool,
}

#[derive(Debug, PartialEq)]
pub enum Action {
    Create(Vec<&'static str>, Arc<Terms>),
    /// A token is counted from the newest.
    Redeem {
        token: usize,
        trying: bool,
    },
    Mistake(usize),
    Check(usize),
    Revoke(usize),
    RevokeAll(&'static str),
    Delete(usize),
    Purge {
        batch_size: i32,
    },
    Remove(Object),
    Make(Object),
    Change(Change),
}

/// What becomes of accounts and their addresses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// The account that has the address gets another, and the one that has `to` gets the address.
    Move {
        address: &'static str,
        to: &'static str,
    },
    Swap(&'static str, &'static str),
    /// The account goes, and another has its address.
    Replace(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Object {
    Organization(&'static str),
    Role(&'static str),
    User(&'static str),
    Membership(&'static str, &'static str),
}

/// What a token is issued for.
#[derive(Debug, PartialEq)]
pub struct Terms {
    pub organizations: Vec<&'static str>,
    /// In place of the default roles of the first organization.
    pub roles: Option<Vec<&'static str>>,
    pub event: Option<&'static str>,
    /// In seconds; None is the default, which no round outlives.
    pub lifetime: Option<i32>,
}

impl Terms {
    pub fn context(&self) -> String {
        let mut context = json!({"jitOrganizationIds": self.organizations});
        if let Some(event) = self.event {
            context["interactionEvent"] = json!(event);
        }
        if let (Some(roles), Some(first)) = (&self.roles, self.organizations.first()) {
            context["organizationRoleIds"] = json!({ *first: roles });
        }
        context.to_string()
    }

    pub fn roles_in(&self, organization: &str) -> &[&'static str] {
        match &self.roles {
            Some(roles) if self.organizations.first() == Some(&organization) => roles,
            _ => &crate::world::DEFAULT_ROLES,
        }
    }
}

impl Round {
    pub fn draw(seed: u64, number: u64, pieces: usize) -> Self {
        let mut random = generator(seed, number, 0);
        Self {
            seed,
            number,
            pieces,
            several: random.random_ratio(1, 2),
            purges: random.random_ratio(1, 3),
            revoke_previous: random.random_ratio(1, 4),
            max_active: if random.random_ratio(1, 4) { 3 } else { 0 },
            timeouts: false,
        }
    }

    pub fn work_of(&self, connection: u64) -> Vec<Piece> {
        let mut random = generator(self.seed, self.number, connection + 1);
        (0..self.pieces).map(|_| self.piece(&mut random)).collect()
    }

    fn piece(&self, random: &mut ChaCha8Rng) -> Piece {
        if random.random_ratio(1, 12) {
            return first_click(random);
        }
        let mut isolation = random.random_ratio(3, 5).then(|| one_of(&LEVELS, random));
        let most = if self.several && isolation.is_some() {
            4
        } else {
            1
        };
        let actions = random.random_range(1..=most);
        let actions: Vec<_> = (0..actions).map(|_| self.action(random)).collect();
        if matches!(actions[..], [Action::Change(_)]) {
            // Several statements, so that others see what is between them, if they may.
            isolation = isolation.or(Some(LEVELS[0]));
        }
        Piece {
            isolation,
            actions,
            commits: isolation.is_none() || random.random_ratio(3, 4),
            timeout: self.timeouts && isolation.is_none() && random.random_ratio(1, 3),
            lingers: false,
        }
    }

    fn action(&self, random: &mut ChaCha8Rng) -> Action {
        let token = random.random_range(0..10);
        match random.random_range(0..100) {
            0..22 => Action::Create(vec![one_of(&ADDRESSES, random)], Arc::new(terms(random))),
            22..26 => Action::Create(some_of(&ADDRESSES, random), Arc::new(terms(random))),
            26..59 => Action::Redeem {
                token,
                trying: random.random_ratio(1, 2),
            },
            59..63 => Action::Mistake(token),
            63..66 => Action::Check(token),
            66..69 => Action::Revoke(token),
            69..71 => Action::RevokeAll(one_of(&ADDRESSES, random)),
            71..74 => Action::Delete(token),
            74..77 if self.purges => Action::Purge {
                batch_size: random.random_range(1..8),
            },
            74..81 => Action::Remove(fleeting(random)),
            81..91 => Action::Change(change(random)),
            _ if random.random_ratio(1, 3) => {
                Action::Make(Object::Role(one_fleeting(&ROLES, random)))
            }
            _ => Action::Make(Object::Organization(one_fleeting(&ORGANIZATIONS, random))),
        }
    }
}

/// The same numbers wherever it runs. Connection 0 is the round itself.
pub fn generator(seed: u64, round: u64, connection: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(round << 16 | connection);
    random
}

/// The first of two clicks, whose transaction comes to nothing.
fn first_click(random: &mut ChaCha8Rng) -> Piece {
    let redeem = Action::Redeem {
        token: random.random_range(0..10),
        trying: random.random_ratio(1, 2),
    };
    Piece {
        isolation: Some(one_of(&LEVELS, random)),
        actions: vec![redeem],
        commits: false,
        timeout: false,
        lingers: true,
    }
}

fn change(random: &mut ChaCha8Rng) -> Change {
    let two = random.random_range(0..ADDRESSES.len() * (ADDRESSES.len() - 1));
    let first = two % ADDRESSES.len();
    let second = (first + 1 + two / ADDRESSES.len()) % ADDRESSES.len();
    let (address, to) = (ADDRESSES[first], ADDRESSES[second]);
    match random.random_range(0..5) {
        0..2 => Change::Move { address, to },
        2..4 => Change::Swap(address, to),
        _ => Change::Replace(address),
    }
}

fn terms(random: &mut ChaCha8Rng) -> Terms {
    let events = [None, None, None, Some("Register"), Some("SignIn")];
    Terms {
        // Whose user is looked up and not locked, where there are none.
        organizations: if random.random_ratio(1, 3) {
            vec![]
        } else {
            some_of(&ORGANIZATIONS, random)
        },
        roles: random.random_ratio(1, 3).then(|| some_of(&ROLES, random)),
        event: events[random.random_range(0..events.len())],
        lifetime: random.random_ratio(1, 20).then_some(1),
    }
}

fn fleeting(random: &mut ChaCha8Rng) -> Object {
    match random.random_range(0..4) {
        0 => Object::Organization(one_fleeting(&ORGANIZATIONS, random)),
        1 => Object::Role(one_fleeting(&ROLES, random)),
        2 => Object::User(one_fleeting(&ADDRESSES, random)),
        _ => Object::Membership(
            one_of(&ORGANIZATIONS, random),
            one_fleeting(&ADDRESSES, random),
        ),
    }
}

fn one_of(names: &[&'static str], random: &mut ChaCha8Rng) -> &'static str {
    names[random.random_range(0..names.len())]
}

fn one_fleeting(names: &[&'static str], random: &mut ChaCha8Rng) -> &'static str {
    let names: Vec<_> = names.iter().filter(|name| !is_kept(name)).collect();
    names.choose(random).expect("there are some")
}

/// One to three of them, in any order.
fn some_of(names: &[&'static str], random: &mut ChaCha8Rng) -> Vec<&'static str> {
    let mut names = names.to_vec();
    names.shuffle(random);
    names.truncate(random.random_range(1..=3));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_and_the_number_of_a_connection_make_its_choices() {
        let round = |seed| Round::draw(seed, 3, 50);
        assert_eq!(round(1).work_of(2), round(1).work_of(2));
        assert_ne!(round(1).work_of(2), round(1).work_of(4));
        assert_ne!(round(1).work_of(2), round(2).work_of(2));
    }
}
