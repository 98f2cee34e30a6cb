# magic_link: build, try, test and install. `make` says what there is. The work is done by the scripts in tools/.
#
# PG_CONFIG=/path/to/pg_config chooses the server, PG=17 a version, which is unpacked from a newer Debian where this one lacks
# it; without them the newest one installed with its headers (15 to 18) is taken, and where there is none, Debian's is installed.

export PG_CONFIG PG APT

.PHONY: help demo picture psql test test-all torture bench regress isolation lint fmt install clean

help:
	@echo "make demo      see a token issued, mailed, redeemed and refused, on a throwaway server"
	@echo "make psql      psql on such a server, gone when you quit"
	@echo "make test      every check and test; for some:"
	@echo "                 STAGES=\"format clippy pg_test install regress isolation connections drivers pg_upgrade\", or TEST=name for one"
	@echo "make test-all  make test with each PostgreSQL from 15 to 18, as far as there are servers of it: PG_CONFIG_16=… names one"
	@echo "make torture   what takes long to break it with: DURATION=600 seconds for each part, SEED=number to replay a run;"
	@echo "                 PARTS=\"schedule kill interrupt promote hostile ddl memcheck fuzz\" for some"
	@echo "make bench     magic_link beside what would be done without it, into benches/results.md: a release build, no root,"
	@echo "                 a quarter of an hour, 15 GB of disk; PARTS=\"instructions wal throughput bulk purge memory growth\" for some"
	@echo "make regress   the pg_regress tests alone; TESTS=\"name name\" for some, ACCEPT=1 to accept the answers,"
	@echo "                 UPGRADED=1 on an installation of the oldest release, updated"
	@echo "make isolation what two transactions do to each other, alone; ACTIONS=\"redeem purge\" for what comes first, ACCEPT=1"
	@echo "make lint      format and clippy alone"
	@echo "make fmt       format the code"
	@echo "make install PG_CONFIG=/path/to/pg_config   a release build into that server"
	@echo "make picture   docs/images/demo.svg, a recording of make demo"
	@echo "make clean     remove what was built and the tools that were fetched"
	@echo ""
	@echo "All take PG_CONFIG, or PG=17 for Debian's server of that version, fetched into .tools where it is not installed;"
	@echo "without them: the newest PostgreSQL 15 to 18 that is installed with its headers, or else Debian's."
	@echo "What is missing of Debian's packages is named, and then installed; with APT=no it is only named."
	@echo "demo, psql, test and bench never touch that server: they use a private copy of it, and leave nothing running."

demo:
	@tools/demo

picture:
	@tools/record-demo

psql:
	@tools/psql

test:
	@tools/test $(if $(TEST),--only $(TEST)) $(STAGES)

test-all:
	@tools/test-all

torture:
	@DURATION="$(DURATION)" SEED="$(SEED)" tools/torture $(PARTS)

bench:
	@tools/bench $(PARTS)

regress:
	@tools/regress $(if $(ACCEPT),--accept) $(if $(UPGRADED),--upgraded) $(TESTS)

isolation:
	@tools/isolation $(if $(ACCEPT),--accept) $(ACTIONS)

lint:
	@tools/test format clippy

fmt:
	@cargo fmt --all

install:
	@tools/install

clean:
	@tools/clean
