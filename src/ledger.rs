//! The token's row: written when it is issued, consumed once, read to say why not or to answer again.

use std::thread::LocalKey;

use pgrx::datum::TimestampWithTimeZone as Timestamp;
use pgrx::pg_sys;
use uuid::Uuid;

use crate::context::{Context, InteractionEvent};
use crate::email::Email;
use crate::fmgr::{Jsonb, pg_uuid};
use crate::index_scan::{Found, Index, Key};
use crate::outcome::Facts;
use crate::raise::{Failure, Report};
use crate::statements::{Parameters, Row, Spi, Statement, statements};
use crate::system::Moment;
use crate::token::{Token, TokenHash};

/// As far as `facts` reads it.
static TOKENS: Index = Index {
    table: c"one_time_tokens",
    name: c"one_time_tokens_pkey",
    key: &[1],
    columns: &[
        pg_sys::UUIDOID,
        pg_sys::BYTEAOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTOID,
        pg_sys::JSONBOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TEXTOID,
        pg_sys::TIMESTAMPTZOID,
    ],
    found: Found::not_yet(),
};

statements! {
    INSERT(UUIDOID, BYTEAOID, TEXTOID, TEXTARRAYOID, TEXTOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID) = c"
        INSERT INTO magic_link.one_time_tokens
               (id, token_hash, email, organization_ids, interaction_event, context, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

    INSERT_ALL(UUIDARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID) = c"
        INSERT INTO magic_link.one_time_tokens
               (id, token_hash, email, organization_ids, interaction_event, context, created_at, expires_at)
        SELECT n.id, n.token_hash, n.email, $4, $5, $6, $7, $8
          FROM unnest($1, $2, $3) AS n (id, token_hash, email)";

    // clock_timestamp(), and not now(): a token does not outlive its time in a transaction that is
    // still open. Who waits for another's lock has the conditions read again if the other changed the
    // row, but not if it went back; so the clock is read once more behind the lock.
    CONSUME(UUIDOID, BYTEAOID, TEXTOID, TEXTOID, TEXTOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET consumed_at = pg_catalog.clock_timestamp(), consumed_by = $5
         WHERE t.id = $1 AND t.token_hash = $2 AND t.email = $3
           AND t.consumed_at IS NULL AND t.revoked_at IS NULL
           AND t.expires_at > pg_catalog.clock_timestamp()
           AND (t.interaction_event IS NULL OR t.interaction_event = $4)
     RETURNING t.context, t.organization_ids, t.consumed_at, t.expires_at > pg_catalog.clock_timestamp()";

    RELEASE(UUIDOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET consumed_at = NULL, consumed_by = NULL
         WHERE t.id = $1";

    SET_CONSUMER(UUIDOID, TEXTOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET consumed_by = $2
         WHERE t.id = $1";

    RECORD_ANSWER(UUIDOID, BOOLOID, JSONBOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET user_created = $2, memberships = $3
         WHERE t.id = $1";

    ANSWER(UUIDOID, BYTEAOID, TEXTOID, TEXTOID, INT4OID) = c"
        SELECT t.consumed_by, t.consumed_at, t.user_created, t.memberships, t.context
          FROM magic_link.one_time_tokens AS t
         WHERE t.id = $1 AND t.token_hash = $2 AND t.email = $3
           AND (t.interaction_event IS NULL OR t.interaction_event = $4)
           AND t.consumed_at > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $5)
           AND t.memberships IS NOT NULL";

    // Only what could be redeemed is worth counting for; a count that is full stays so.
    RECORD_FAILED_ATTEMPT(UUIDOID, BYTEAOID, TEXTOID, INT4OID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET failed_attempts = LEAST(t.failed_attempts, 2147483646) + 1,
               revoked_at = CASE WHEN t.failed_attempts >= NULLIF($4, 0) - 1 THEN pg_catalog.clock_timestamp() END,
               revoked_by = CASE WHEN t.failed_attempts >= NULLIF($4, 0) - 1 THEN 'magic_link.max_failed_attempts' END
         WHERE t.id = $1 AND t.token_hash = $2 AND t.email <> $3
           AND t.consumed_at IS NULL AND t.revoked_at IS NULL
           AND t.expires_at > pg_catalog.clock_timestamp()";
}

/// What the tokens of one call have in common.
pub struct Terms<'a> {
    /// What the context means, and the context itself.
    pub meaning: &'a Context,
    pub context: Jsonb,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// What somebody who presents a token says: the token, for this address, in this event.
pub struct Claim<'a> {
    pub id: Uuid,
    pub hash: TokenHash,
    pub email: &'a Email,
    pub interaction_event: Option<&'a InteractionEvent>,
}

/// What a redemption answered, kept to be answered again.
pub struct Answer {
    pub consumed_by: String,
    pub consumed_at: Timestamp,
    pub user_created: bool,
    pub memberships: Jsonb,
    pub context: Jsonb,
}

/// What a consumed row hands over.
pub struct Consumed {
    pub context: Jsonb,
    pub organization_ids: Vec<String>,
    pub consumed_at: Timestamp,
}

impl<'a> Claim<'a> {
    pub fn new(
        token: &Token,
        email: &'a Email,
        interaction_event: Option<&'a InteractionEvent>,
    ) -> Self {
        let hash = token.hash();
        Self {
            id: token.id(&hash),
            hash,
            email,
            interaction_event,
        }
    }

    /// Whose token: its id, hash and address.
    fn identity(&self) -> Parameters {
        Parameters::of(pg_uuid(self.id))
            .and(self.hash.as_bytes())
            .and(self.email.as_str())
    }

    fn parameters(&self) -> Parameters {
        self.identity()
            .and(self.interaction_event.map(InteractionEvent::as_str))
    }
}

impl Terms<'_> {
    fn parameters(&self, addressed: Parameters) -> Parameters {
        let event = self.meaning.interaction_event();
        addressed
            .and(self.meaning.organization_ids().to_vec())
            .and(event.map(InteractionEvent::as_str))
            .and(self.context)
            .and(self.created_at)
            .and(self.expires_at)
    }
}

/// Writes the row of a new token and answers its id.
pub fn insert(spi: &Spi, token: &Token, email: &Email, terms: &Terms) -> Result<Uuid, Failure> {
    let hash = token.hash();
    let id = token.id(&hash);
    let addressed = Parameters::of(pg_uuid(id))
        .and(hash.as_bytes())
        .and(email.as_str());
    let written = spi.execute(&INSERT, terms.parameters(addressed));
    if written.map_err(without_row)? == 0 {
        return Err(Report::suppressed("one_time_tokens").into());
    }
    Ok(id)
}

/// The same for many tokens, each for the address in its place.
pub fn insert_all(
    spi: &Spi,
    tokens: &[Token],
    emails: &[Email],
    terms: &Terms,
) -> Result<Vec<Uuid>, Failure> {
    let hashes: Vec<TokenHash> = tokens.iter().map(Token::hash).collect();
    let ids: Vec<Uuid> = tokens.iter().zip(&hashes).map(|(t, h)| t.id(h)).collect();
    let addressed = Parameters::of(ids.iter().copied().map(pg_uuid).collect::<Vec<_>>())
        .and(hashes.iter().map(TokenHash::as_bytes).collect::<Vec<_>>())
        .and(emails.iter().map(Email::as_str).collect::<Vec<_>>());
    let written = spi
        .execute(&INSERT_ALL, terms.parameters(addressed))
        .map_err(without_row)?;
    if written != tokens.len() as u64 {
        return Err(Report::suppressed("one_time_tokens").into());
    }
    Ok(ids)
}

/// The guarded UPDATE: of any number of callers at once, exactly one gets the row.
pub fn consume(spi: &Spi, claim: &Claim, consumer: &str) -> Result<Option<Consumed>, Failure> {
    let row = claim.parameters().and(consumer);
    let Some(row) = change(spi, &CONSUME, row)? else {
        return Ok(None);
    };
    if !row.required::<bool>(4)? {
        // It expired while we waited for the row. Nobody but a trigger has seen it consumed.
        change(spi, &RELEASE, Parameters::of(pg_uuid(claim.id)))?;
        return Ok(None);
    }
    Consumed::read(&row).map(Some)
}

impl Consumed {
    fn read(row: &Row) -> Result<Self, Failure> {
        // An array can hold NULLs, if not by our doing.
        let organization_ids: Vec<Option<String>> = row.required(2)?;
        Ok(Self {
            context: row.required::<Jsonb>(1)?.outliving_spi(),
            organization_ids: organization_ids.into_iter().flatten().collect(),
            consumed_at: row.required(3)?,
        })
    }
}

/// What there is to say of a claim; None where no token has its id. It writes nothing.
pub fn facts(spi: &Spi, claim: &Claim) -> Result<Option<Facts>, Failure> {
    let Some(row) = TOKENS.row(spi, &[Key::Uuid(claim.id)])? else {
        return Ok(None);
    };
    let event = row.text(5)?;
    Ok(Some(Facts {
        hash_matches: row.bytes(2)? == Some(claim.hash.as_bytes()),
        email_matches: row.text(3)? == Some(claim.email.as_str()),
        consumed: !row.is_null(9),
        revoked: !row.is_null(11),
        expired: row.required::<Moment>(8)? <= Moment::now(),
        event_allowed: event.is_none()
            || event == claim.interaction_event.map(InteractionEvent::as_str),
    }))
}

/// Names another consumer than `consume` did, in the same transaction.
pub fn set_consumer(spi: &Spi, claim: &Claim, consumer: &str) -> Result<(), Failure> {
    let row = Parameters::of(pg_uuid(claim.id)).and(consumer);
    change(spi, &SET_CONSUMER, row).map(drop)
}

/// Keeps what a redemption answers, in the same transaction.
pub fn record_answer(
    spi: &Spi,
    claim: &Claim,
    user_created: bool,
    memberships: Jsonb,
) -> Result<(), Failure> {
    let row = Parameters::of(pg_uuid(claim.id))
        .and(user_created)
        .and(memberships);
    change(spi, &RECORD_ANSWER, row).map(drop)
}

/// What the redemption of `claim` answered, if it was kept and is not older than so many seconds.
pub fn answer(spi: &Spi, claim: &Claim, seconds: i32) -> Result<Option<Answer>, Failure> {
    let Some(row) = spi.row(&ANSWER, claim.parameters().and(seconds))? else {
        return Ok(None);
    };
    Ok(Some(Answer {
        consumed_by: row.required(1)?,
        consumed_at: row.required(2)?,
        user_created: row.required(3)?,
        memberships: row.required::<Jsonb>(4)?.outliving_spi(),
        context: row.required::<Jsonb>(5)?.outliving_spi(),
    }))
}

/// Counts a claim with the wrong address; the token is revoked when there were as many as `limit`,
/// if that is not 0.
pub fn record_failed_attempt(spi: &Spi, claim: &Claim, limit: i32) -> Result<(), Failure> {
    change(spi, &RECORD_FAILED_ATTEMPT, claim.identity().and(limit)).map(drop)
}

/// Runs a statement that writes one row.
fn change<'s>(
    spi: &'s Spi,
    statement: &'static LocalKey<Statement>,
    parameters: Parameters,
) -> Result<Option<Row<'s>>, Failure> {
    spi.row(statement, parameters).map_err(without_row)
}

/// The hash is in the row, and has no business in an error.
pub fn without_row(failure: Failure) -> Failure {
    failure.without_row(c"one_time_tokens")
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::{Claim, consume, facts, set_consumer};
    use crate::context::InteractionEvent;
    use crate::email::Email;
    use crate::outcome::{Outcome, Refusal};
    use crate::statements::Spi;
    use crate::token::Token;

    /// A token for ada@example.com, in the event `SignIn`.
    fn issue() -> Token {
        let token = pgrx::Spi::get_one::<String>(
            r#"SELECT token FROM magic_link.create_one_time_token('ada@example.com', context => '{"interactionEvent": "SignIn"}')"#,
        );
        Token::parse(&token.unwrap().unwrap()).unwrap()
    }

    fn email(address: &str) -> Email {
        Email::parse(address).unwrap()
    }

    fn verdict(spi: &Spi, claim: &Claim) -> Outcome {
        Outcome::judge(facts(spi, claim).unwrap(), true)
    }

    #[pg_test]
    fn only_the_right_claim_consumes() {
        let (token, other_token) = (issue(), issue());
        let (ada, eve) = (email("ada@example.com"), email("eve@example.com"));
        let sign_in = InteractionEvent::parse("SignIn").unwrap();
        let register = InteractionEvent::parse("Register").unwrap();
        let mut forged = Claim::new(&token, &ada, Some(&sign_in));
        forged.hash = other_token.hash();
        let wrong = [
            (forged, Refusal::TokenNotFound),
            (
                Claim::new(&token, &eve, Some(&sign_in)),
                Refusal::EmailMismatch,
            ),
            (
                Claim::new(&token, &ada, Some(&register)),
                Refusal::InteractionEventMismatch,
            ),
            (
                Claim::new(&token, &ada, None),
                Refusal::InteractionEventMismatch,
            ),
        ];
        let spi = Spi::connect().unwrap();
        for (claim, refusal) in wrong {
            assert!(consume(&spi, &claim, "eve").unwrap().is_none());
            assert_eq!(verdict(&spi, &claim), Outcome::Refused(refusal));
        }
        let right = Claim::new(&token, &ada, Some(&sign_in));
        assert_eq!(verdict(&spi, &right), Outcome::Ok);
        assert!(consume(&spi, &right, "ada").unwrap().is_some());
        assert!(consume(&spi, &right, "ada").unwrap().is_none());
        assert_eq!(
            verdict(&spi, &right),
            Outcome::Refused(Refusal::TokenConsumed)
        );
    }

    #[pg_test]
    fn a_miss_takes_no_transaction_id() {
        let token = Token::parse(&"0".repeat(32)).unwrap();
        let ada = email("ada@example.com");
        let spi = Spi::connect().unwrap();
        assert!(
            consume(&spi, &Claim::new(&token, &ada, None), "ada")
                .unwrap()
                .is_none()
        );
        drop(spi);
        let assigned = pgrx::Spi::connect(|client| {
            let row = client.select(
                "SELECT pg_current_xact_id_if_assigned() IS NOT NULL",
                None,
                &[],
            );
            row.unwrap().first().get_one::<bool>()
        });
        assert_eq!(assigned, Ok(Some(false)));
    }

    #[pg_test]
    fn the_consumer_can_be_put_right() {
        let token = issue();
        let ada = email("ada@example.com");
        let sign_in = InteractionEvent::parse("SignIn").unwrap();
        let claim = Claim::new(&token, &ada, Some(&sign_in));
        let spi = Spi::connect().unwrap();
        consume(&spi, &claim, "a candidate").unwrap().unwrap();
        set_consumer(&spi, &claim, "the user").unwrap();
        drop(spi);
        let consumer =
            pgrx::Spi::get_one::<String>("SELECT consumed_by FROM magic_link.one_time_tokens");
        assert_eq!(consumer.unwrap().unwrap(), "the user");
    }
}
