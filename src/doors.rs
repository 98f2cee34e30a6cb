//! The functions that SQL calls: they read arguments, ask a room, and answer. `sql/functions.sql`
//! declares them, with their defaults and their documentation.

use pgrx::IntoDatum;
use pgrx::datum::TimestampWithTimeZone;

use crate::context::{Context, InteractionEvent};
use crate::email::Email;
use crate::fmgr::{Answer, Call, Columns, Jsonb, door, forbid_in_read_only_transaction, pg_uuid};
use crate::issuance::{self, Lifetime, Order};
use crate::ledger::Claim;
use crate::link;
use crate::outcome::Refusal;
use crate::raise::{Failure, Report};
use crate::redemption::{self, Redemption};
use crate::session_switch;
use crate::statements::Spi;
use crate::token::Token;

door!(normalize_email(1));
fn normalize_email(call: &Call) -> Result<Answer, Failure> {
    Ok(email(call, 0)?.as_str().into_datum())
}

door!(one_time_token_id(1));
fn one_time_token_id(call: &Call) -> Result<Answer, Failure> {
    let token = well_formed_token(call, 0)?;
    Ok(pg_uuid(token.id(&token.hash())).into_datum())
}

door!(compose_magic_link(6));
fn compose_magic_link(call: &Call) -> Result<Answer, Failure> {
    let base_url = call.required_text(0, "base_url")?;
    let token = well_formed_token(call, 1)?;
    let email = email(call, 2)?;
    let params = call.jsonb(3).map(Jsonb::to_text).transpose()?;
    let link = link::compose(
        base_url,
        token.as_str(),
        email.as_str(),
        params.as_deref().unwrap_or("{}"),
        call.text(4).unwrap_or("token"),
        call.text(5).unwrap_or("email"),
    );
    let link = link.map_err(|why| Report::invalid("magic link", why))?;
    Ok(link.into_datum())
}

door!(create_one_time_token(3));
fn create_one_time_token(call: &Call) -> Result<Answer, Failure> {
    forbid_in_read_only_transaction(c"create_one_time_token()");
    let email = email(call, 0)?;
    let lifetime = call
        .integer(1)
        .map_or_else(|| Ok(Lifetime::default()), Lifetime::new)?;
    let (context, meaning) = context(call, 2)?;
    let order = Order {
        email: &email,
        lifetime,
        meaning: &meaning,
        context,
    };
    let issued = issuance::create(&Spi::connect()?, &order)?;
    call.row(
        Columns::default()
            .and(pg_uuid(issued.id))
            .and(issued.token.as_str())
            .and(email.as_str())
            .and(context)
            .and("active")
            .and(issued.created_at.timestamp()?)
            .and(issued.expires_at.timestamp()?),
    )
}

door!(redeem_one_time_token(3));
fn redeem_one_time_token(call: &Call) -> Result<Answer, Failure> {
    forbid_in_read_only_transaction(c"redeem_one_time_token()");
    let claimant = Claimant::read(call)?;
    let redemption = claimant.redeem()?.map_err(Report::from)?;
    call.row(redeemed(Columns::default(), &claimant, &redemption)?)
}

door!(try_redeem_one_time_token(3));
fn try_redeem_one_time_token(call: &Call) -> Result<Answer, Failure> {
    forbid_in_read_only_transaction(c"try_redeem_one_time_token()");
    let claimant = Claimant::read(call)?;
    call.row(match claimant.redeem()? {
        Ok(redemption) => redeemed(Columns::default().and("ok"), &claimant, &redemption)?,
        Err(refusal) => refused(Columns::default().and(refusal.as_str())),
    })
}

door!(check_one_time_token(3));
fn check_one_time_token(call: &Call) -> Result<Answer, Failure> {
    let claimant = Claimant::read(call)?;
    let outcome = match claimant.claim() {
        Some(claim) => redemption::check(&Spi::connect()?, &claim)?.as_str(),
        None => Refusal::TokenNotFound.as_str(),
    };
    Ok(outcome.into_datum())
}

door!(session_switch_decision(4));
fn session_switch_decision(call: &Call) -> Result<Answer, Failure> {
    let token = Token::parse(call.required_text(0, "token")?);
    let email = email(call, 1)?;
    let session_email = session_switch::session_email(call.text(2))?;
    let decision = match token {
        Some(token) => {
            let claim = Claim::new(&token, &email, None);
            session_switch::decide(&Spi::connect()?, &claim, &session_email, call.text(3))?
        }
        None => Refusal::TokenNotFound.into(),
    };
    call.row(
        Columns::default()
            .and(decision.decision)
            .and(decision.reason),
    )
}

/// Who presents a token: (token, email, interaction_event). What has not a token's shape is not
/// found, without a look.
struct Claimant {
    token: Option<Token>,
    email: Email,
    interaction_event: Option<InteractionEvent>,
}

impl Claimant {
    fn read(call: &Call) -> Result<Self, Failure> {
        let token = call.required_text(0, "token")?;
        let email = email(call, 1)?;
        let event = call.text(2).map(InteractionEvent::parse).transpose();
        Ok(Self {
            token: Token::parse(token),
            email,
            interaction_event: event.map_err(|why| Report::invalid("interaction_event", why))?,
        })
    }

    fn claim(&self) -> Option<Claim<'_>> {
        let token = self.token.as_ref()?;
        Some(Claim::new(
            token,
            &self.email,
            self.interaction_event.as_ref(),
        ))
    }

    fn redeem(&self) -> Result<Result<Redemption, Refusal>, Failure> {
        match self.claim() {
            Some(claim) => redemption::redeem(&Spi::connect()?, &claim),
            None => Ok(Err(Refusal::TokenNotFound)),
        }
    }
}

fn redeemed(
    columns: Columns,
    claimant: &Claimant,
    redemption: &Redemption,
) -> Result<Columns, Failure> {
    Ok(columns
        .and(pg_uuid(redemption.token_id))
        .and(redemption.user.to_string())
        .and(redemption.user_created)
        .and(claimant.email.as_str())
        .and(redemption.context)
        .and(Jsonb::from_serialize(&redemption.memberships)?)
        .and(redemption.redeemed_at)
        .and(redemption.replayed))
}

/// The columns of `redeemed`, all NULL.
fn refused(columns: Columns) -> Columns {
    columns
        .and(None::<pgrx::Uuid>)
        .and(None::<String>)
        .and(None::<bool>)
        .and(None::<String>)
        .and(None::<Jsonb>)
        .and(None::<Jsonb>)
        .and(None::<TimestampWithTimeZone>)
        .and(None::<bool>)
}

fn email(call: &Call, position: usize) -> Result<Email, Failure> {
    let raw = call.required_text(position, "email")?;
    Email::parse(raw).map_err(|why| Report::invalid("e-mail address", why).into())
}

fn well_formed_token(call: &Call, position: usize) -> Result<Token, Failure> {
    Token::parse(call.required_text(position, "token")?).ok_or_else(|| {
        let shape = "A token is 32 characters: digits, A to Z and a to z.";
        Report::invalid("one-time token", shape).into()
    })
}

/// The context as it is, and what it means.
fn context(call: &Call, position: usize) -> Result<(Jsonb, Context), Failure> {
    let context = match call.jsonb(position) {
        Some(context) => context,
        None => Jsonb::parse(c"{}")?,
    };
    match Context::parse(&context.to_text()?) {
        Ok(meaning) => Ok((context, meaning)),
        Err(why) => Err(Report::invalid("context", why).into()),
    }
}
