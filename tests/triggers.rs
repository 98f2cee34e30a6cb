//! Triggers of the application that a function of the extension fires: they see their session's settings, and what they set
//! with SET LOCAL ends with the transaction, and what they set for the session stays.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Database, ExpectSqlState};

const ADA: &str = "ada@example.com";

/// A trigger on the token table that runs this body before each row is written or deleted.
fn trigger(db: &Database, body: &str) {
    db.sql(&format!(
        "CREATE TABLE public.seen (what text);
         GRANT SELECT ON public.seen TO PUBLIC;
         CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN {body} IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$;
         CREATE TRIGGER look BEFORE INSERT OR UPDATE OR DELETE ON magic_link.one_time_tokens
            FOR EACH ROW EXECUTE FUNCTION public.look()"
    ));
}

fn shown(client: &mut Client, setting: &str) -> String {
    let row = client.query_one(&format!("SHOW {setting}"), &[]).unwrap();
    row.get(0)
}

/// What a trigger sets holds as long as it says, and what the session has set is there again afterwards.
#[test]
fn plan_cache_mode_is_the_sessions_whatever_a_trigger_makes_of_it() {
    for (session, set, is_local, in_transaction, afterwards) in [
        (
            "auto",
            "force_custom_plan",
            "true",
            "force_custom_plan",
            "auto",
        ),
        (
            "auto",
            "force_generic_plan",
            "true",
            "force_generic_plan",
            "auto",
        ),
        (
            "auto",
            "force_custom_plan",
            "false",
            "force_custom_plan",
            "force_custom_plan",
        ),
        (
            "force_generic_plan",
            "auto",
            "true",
            "auto",
            "force_generic_plan",
        ),
        ("force_generic_plan", "auto", "false", "auto", "auto"),
        // As in a function with SET plan_cache_mode of its own: what is local to it ends with it.
        (
            "force_custom_plan",
            "force_generic_plan",
            "true",
            "force_custom_plan",
            "force_custom_plan",
        ),
        (
            "force_custom_plan",
            "force_generic_plan",
            "false",
            "force_generic_plan",
            "force_generic_plan",
        ),
    ] {
        let case = format!("{session}, {set}, {is_local}");
        let db = Database::new();
        let token = db.backend().create(ADA, "{}").unwrap().token;
        trigger(
            &db,
            &format!("PERFORM set_config('plan_cache_mode', '{set}', {is_local});"),
        );
        let mut backend = db.backend();
        backend
            .batch_execute(&format!("SET plan_cache_mode = {session}; BEGIN"))
            .unwrap();
        backend.redeem(&token, ADA).unwrap();
        assert_eq!(
            shown(&mut backend, "plan_cache_mode"),
            in_transaction,
            "{case}"
        );
        backend.batch_execute("COMMIT").unwrap();
        assert_eq!(shown(&mut backend, "plan_cache_mode"), afterwards, "{case}");
    }
}

/// Our own statements are planned by their indexes; the application's are planned, and kept, as its
/// settings say.
#[test]
fn a_trigger_sees_the_planners_settings_of_its_session() {
    let db = Database::new();
    db.set("revoke_previous", "on");
    db.set("max_active_tokens", 5);
    trigger(
        &db,
        "INSERT INTO public.seen SELECT concat_ws(' ', TG_OP, (
             SELECT string_agg(s.setting, ',' ORDER BY s.name) FROM pg_settings AS s
              WHERE s.name IN ('enable_seqscan', 'enable_bitmapscan', 'enable_indexscan', 'plan_cache_mode', 'jit')));",
    );
    let jit: String = db.value("SELECT setting FROM pg_settings WHERE name = 'jit'", &[]);
    let mut backend = db.backend();
    let (mut admin, tokens) = (
        db.admin(),
        [(); 3].map(|()| backend.create(ADA, "{}").unwrap()),
    );
    backend.redeem(&tokens[2].token, ADA).unwrap();
    let other = backend.create("eve@example.com", "{}").unwrap();
    for _ in 0..5 {
        backend.try_redeem_in(None, &other.token, ADA).unwrap();
    }
    let third = backend.create("eve@example.com", "{}").unwrap();
    assert_eq!(admin.revoke(third.id).unwrap(), "revoked");
    backend.create("eve@example.com", "{}").unwrap();
    assert_eq!(admin.revoke_all("eve@example.com", None).unwrap(), 1);
    assert!(admin.delete(tokens[0].id).unwrap());
    assert!(admin.purge("0 seconds", 2).unwrap() > 1);
    let seen: Vec<String> = db
        .superuser()
        .query("SELECT DISTINCT what FROM public.seen ORDER BY 1", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let settings = format!("on,on,on,{jit},auto");
    let expected = ["DELETE", "INSERT", "UPDATE"].map(|kind| format!("{kind} {settings}"));
    assert_eq!(seen, expected);
}

/// What a trigger keeps from being written or deleted is an error, and not an answer that says it was done, or that
/// there was nothing to do.
#[test]
fn a_row_that_a_trigger_suppresses_is_an_error() {
    let db = Database::new();
    let issued = db.backend().create(ADA, "{}").unwrap();
    trigger(&db, "RETURN NULL;");
    let (mut backend, mut admin) = (db.backend(), db.admin());
    backend.create(ADA, "{}").expect_sqlstate("27000");
    backend.redeem(&issued.token, ADA).expect_sqlstate("27000");
    backend
        .try_redeem_in(None, &issued.token, "eve@example.com")
        .expect_sqlstate("27000");
    admin.revoke(issued.id).expect_sqlstate("27000");
    admin.delete(issued.id).expect_sqlstate("27000");
    assert_eq!(db.status_of(&issued), "active");
}
