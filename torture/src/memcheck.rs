//! Hostile calls to a server that valgrind's memcheck watches. It sees what is read before it was written and what is used after the
//! C library got it back; PostgreSQL's own allocator keeps most memory for itself, so of what lies there it sees little: a server
//! with assertions, which overwrites what is given back, sees that.

use std::env;
use std::fs;
use std::path::PathBuf;

use magic_link_harness::{Cluster, Database};

use crate::hostile::Hostile;
use crate::run::Run;

const BEGIN: &str = "VALGRINDERROR-BEGIN";
const END: &str = "VALGRINDERROR-END";

/// How the names of the files begin with what it says, one for each process.
const SAID: &str = "memcheck.";

pub fn memcheck(run: &Run) -> String {
    // A checkpoint has nothing to do with us, and takes minutes here.
    let cluster = Cluster::start(&[("statement_timeout", "0"), ("checkpoint_timeout", "1d")]);
    let database = Database::of(&cluster);
    restart_under_valgrind(&cluster);
    let mut hostile = Hostile::new(&database, run.seed);
    while run.goes_on() {
        hostile.play(100);
        run.progress(&hostile.line());
    }
    hostile.assert_nothing_broke();
    let line = hostile.line();
    drop(hostile);
    cluster.run_inside("pg_ctl stop --wait --timeout=600 --mode=fast --pgdata=data");
    let said = said(&cluster);
    let errors: Vec<&str> = errors(&said).collect();
    let ours: Vec<_> = errors.iter().filter(|error| is_ours(error)).collect();
    cluster.start_again();
    assert!(ours.is_empty(), "SEED={}: {ours:#?}", run.seed);
    format!("{line}, {} errors in PostgreSQL alone", errors.len())
}

/// Every process of the server, from its start on.
fn restart_under_valgrind(cluster: &Cluster) {
    let valgrind = env::var("MAGIC_LINK_VALGRIND").expect("tools/torture names valgrind");
    let (wrapper, said) = (cluster.file("wrapper"), cluster.file(SAID));
    let (wrapper, said) = (wrapper.display(), said.display());
    let command = format!(
        "exec {valgrind} --tool=memcheck --trace-children=yes --leak-check=no --num-callers=60 \
         --error-markers={BEGIN},{END} --log-file={said}%p postgres \"$@\""
    );
    cluster.run_inside(&format!(
        "printf '%s\\n' '#!/bin/sh' '{command}' >{wrapper} && chmod +x {wrapper}"
    ));
    cluster.run_inside("pg_ctl stop --wait --mode=fast --pgdata=data");
    cluster.run_inside(&format!(
        "pg_ctl start --wait --timeout=600 --pgdata=data --log=log -p {wrapper}"
    ));
}

fn said(cluster: &Cluster) -> String {
    let files = fs::read_dir(cluster.file("")).expect("a folder");
    let paths = files.map(|file| file.expect("a file").path());
    let is_said = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(SAID))
    };
    let said: Vec<String> = paths
        .filter(is_said)
        .map(|path| fs::read_to_string(path).expect("a file of memcheck's"))
        .collect();
    // The postmaster, and a session of each role.
    assert!(said.len() > 4, "memcheck ran {} processes", said.len());
    said.concat()
}

fn errors(said: &str) -> impl Iterator<Item = &str> {
    said.split(BEGIN)
        .skip(1)
        .filter_map(|rest| rest.split(END).next())
}

/// Whether a frame of ours is in its stack: then it is ours, or by our doing.
fn is_ours(error: &str) -> bool {
    error.contains("magic_link")
}
