//! The nightly purge of docs/operations.md, run by pg_cron itself. pg_cron starts a job at a full minute, so tools/test runs
//! this test beside the others. Where the server has no pg_cron, tools/test leaves it out and says so.

use magic_link_harness::documentation::block;
use magic_link_harness::postgres::Client;
use magic_link_harness::{Cluster, wait_until_next_minute};

const SETTINGS: &[(&str, &str)] = &[
    ("shared_preload_libraries", "pg_cron"),
    ("cron.database_name", "postgres"),
    // Its other way is a connection by TCP.
    ("cron.use_background_workers", "on"),
];

/// Tokens that expired at both sides of the default retention, and a witness of who deletes them.
const TOKENS: &str = "
    INSERT INTO magic_link.one_time_tokens
           (id, token_hash, email, organization_ids, context, created_at, expires_at)
    SELECT rpad(lpad(to_hex((EXTRACT(epoch FROM issued) * 1000)::bigint), 12, '0'), 32, '0')::uuid,
           sha256(email::bytea), email, '{}', '{}', issued, issued + interval '10 minutes'
      FROM (VALUES ('old@example.com', now() - interval '31 days'),
                   ('young@example.com', now() - interval '29 days')) AS t (email, issued);
    CREATE TABLE purged (email text, by name);
    CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO public.purged VALUES (OLD.email, session_user); RETURN NULL; END $$;
    CREATE TRIGGER witness AFTER DELETE ON magic_link.one_time_tokens
       FOR EACH ROW EXECUTE FUNCTION witness()";

/// The statement that the page schedules, with nothing changed but the time.
fn every_minute() -> String {
    let nightly = block("docs/operations.md", "## Every night", "sql");
    let [time] = nightly
        .split('\'')
        .filter(|part| part.split(' ').count() == 5 && part.ends_with("* * *"))
        .collect::<Vec<_>>()[..]
    else {
        panic!("no time in {nightly}");
    };
    nightly.replace(time, "* * * * *")
}

fn texts(client: &mut Client, query: &str) -> Vec<String> {
    let rows = client.query(query, &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What is scheduled as a role is run as this role.
fn purges_as(role: &str) {
    let cluster = Cluster::start(SETTINGS);
    let mut superuser = cluster.connect("postgres", "postgres");
    superuser
        .batch_execute(
            "CREATE EXTENSION magic_link; CREATE EXTENSION pg_cron;
             CREATE ROLE dba LOGIN; GRANT USAGE ON SCHEMA cron TO dba; SELECT magic_link.grant_admin('dba')",
        )
        .unwrap();
    superuser.batch_execute(TOKENS).unwrap();
    let mut scheduling = cluster.connect("postgres", role);
    scheduling.batch_execute(&every_minute()).unwrap();

    let ended =
        "SELECT status || ' ' || username FROM cron.job_run_details WHERE end_time IS NOT NULL";
    wait_until_next_minute("the purge has run", || {
        !texts(&mut scheduling, ended).is_empty()
    });

    let message = "SELECT coalesce(return_message, '') FROM cron.job_run_details";
    let message = texts(&mut superuser, message);
    assert_eq!(
        texts(&mut superuser, ended),
        [format!("succeeded {role}")],
        "{message:?}"
    );
    let purged = texts(&mut superuser, "SELECT email || ' ' || by FROM purged");
    assert_eq!(purged, [format!("old@example.com {role}")]);
    let left = "SELECT email FROM magic_link.one_time_token_status";
    assert_eq!(texts(&mut superuser, left), ["young@example.com"]);
}

#[test]
fn the_nightly_purge_runs_as_the_admin_who_scheduled_it() {
    purges_as("dba");
}

#[test]
fn the_nightly_purge_runs_as_a_superuser_who_scheduled_it() {
    purges_as("postgres");
}
