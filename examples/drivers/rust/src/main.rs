//! Calls a module's functions as check.py asks for them: a line of JSON in, a line of JSON out.

mod pages;
mod sqlx_pool;
mod tokio_postgres_pool;

use std::env;
use std::error::Error;
use std::io::{Write as _, stdin, stdout};

use deadpool_postgres::{Config, Runtime};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_postgres::NoTls;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let which = env::args().nth(1).unwrap_or_default();
    let config = Config {
        host: env::var("PGHOST").ok(),
        user: env::var("PGUSER").ok(),
        dbname: env::var("PGDATABASE").ok(),
        ..Config::default()
    };
    let deadpool = config.create_pool(Some(Runtime::Tokio1), NoTls)?;
    // From PGHOST, PGUSER and so on.
    let sqlx = PgPoolOptions::new()
        .max_connections(4)
        .connect_lazy_with(PgConnectOptions::new());
    for line in stdin().lines() {
        let (name, arguments): (String, Vec<Value>) = serde_json::from_str(&line?)?;
        let text = |place: usize| arguments.get(place).and_then(Value::as_str);
        let [first, second] = [0, 1].map(|place| text(place).unwrap_or_default());
        let session = arguments
            .get(2)
            .and_then(|session| session.get("email")?.as_str());
        let answer = match (which.as_str(), name.as_str()) {
            ("tokio_postgres_pool", "invite") => {
                invited(tokio_postgres_pool::invite(&deadpool, first, second).await?)
            }
            ("tokio_postgres_pool", "open_link") => {
                json!(tokio_postgres_pool::open_link(&deadpool, first, second, text(2)).await?)
            }
            ("tokio_postgres_pool", "confirm") => {
                json!(
                    tokio_postgres_pool::confirm(&deadpool, first, second, session, text(3))
                        .await?
                )
            }
            ("sqlx_pool", "invite") => invited(sqlx_pool::invite(&sqlx, first, second).await?),
            ("sqlx_pool", "open_link") => {
                json!(sqlx_pool::open_link(&sqlx, first, second, text(2)).await?)
            }
            ("sqlx_pool", "confirm") => {
                json!(sqlx_pool::confirm(&sqlx, first, second, session, text(3)).await?)
            }
            (which, name) => return Err(format!("no {name} of {which}").into()),
        };
        println!("{answer}");
        stdout().flush()?;
    }
    Ok(())
}

fn invited(answer: Result<(String, String), String>) -> Value {
    match answer {
        Ok((email, link)) => json!([email, link]),
        Err(page) => json!(page),
    }
}
