use postgres::{Client, Error};

/// What the page says when the link has come back.
#[derive(Debug, PartialEq)]
pub enum Page {
    Welcome { user_id: String },
    AlreadyUsed,
    AskForANewLink,
    BrokenLink,
}

/// The address to mail to, and the link to put into the mail.
pub fn invite(
    client: &mut Client,
    typed: &str,
    organization_id: &str,
) -> Result<(String, String), Error> {
    let row = client.query_one(
        "SELECT t.email, magic_link.compose_magic_link('https://app.example.com/sign-in', t.token, t.email)
           FROM magic_link.create_one_time_token($1, context =>
                jsonb_build_object('jitOrganizationIds', jsonb_build_array($2::text))) AS t",
        &[&typed, &organization_id],
    )?;
    Ok((row.get(0), row.get(1)))
}

/// For the POST that the page behind the link sends.
pub fn redeem(client: &mut Client, token: &str, email: &str) -> Result<Page, Error> {
    let redeemed = client.query_one(
        "SELECT user_id FROM magic_link.redeem_one_time_token($1, $2)",
        &[&token, &email],
    );
    match redeemed {
        Ok(row) => Ok(Page::Welcome {
            user_id: row.get(0),
        }),
        Err(error) => match error.code().map(|code| code.code()) {
            Some("OT003") => Ok(Page::AlreadyUsed),
            Some("OT004" | "OT005") => Ok(Page::AskForANewLink),
            Some("OT001" | "OT002" | "OT006" | "OT007" | "22023") => Ok(Page::BrokenLink),
            _ => Err(error),
        },
    }
}
