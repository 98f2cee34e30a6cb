-- All that the catalogues say of the objects in some schemas ($1, an array of names) and of what stands around them: one fact
-- a row, as object, property and value. OIDs, and what a table merely went through (dropped columns, sizes, flags that are
-- hints), are left out, so that two databases give the same rows if and only if their objects are the same.
--
-- The rows of the catalogues go in whole (to_jsonb), minus what is an OID or is told better by a name beside it: so an
-- attribute that a later PostgreSQL adds is compared too.
WITH
schemas AS (
    SELECT * FROM pg_namespace WHERE nspname = ANY ($1::text[])
),
relations AS (
    SELECT c.* FROM pg_class AS c JOIN schemas ON schemas.oid = c.relnamespace
),

-- What there is: where it is found, what to call it, whose it is, who may use it, and what it is like.
objects (classid, objid, objsubid, name, owner, has_acl, acl, facts) AS (
    SELECT 'pg_database'::regclass, d.oid, 0, 'database', d.datdba, true, d.datacl,
           jsonb_build_object(
               'encoding', pg_encoding_to_char(d.encoding), 'collation', d.datcollate, 'ctype', d.datctype,
               'settings', (SELECT jsonb_object_agg(
                                       CASE s.setrole WHEN 0 THEN 'everybody' ELSE pg_get_userbyid(s.setrole) END, s.setconfig)
                              FROM pg_db_role_setting AS s WHERE s.setdatabase = d.oid))
      FROM pg_database AS d WHERE d.datname = current_database()

    UNION ALL
    SELECT 'pg_extension'::regclass, e.oid, 0, NULL, e.extowner, false, NULL,
           jsonb_build_object(
               'version', e.extversion, 'schema', e.extnamespace::regnamespace, 'relocatable', e.extrelocatable,
               -- In no order: pg_dump has one of its own.
               'marked for pg_dump', (SELECT jsonb_object_agg(m.marked::regclass, m.condition)
                                        FROM unnest(e.extconfig, e.extcondition) AS m (marked, condition)))
      FROM pg_extension AS e

    UNION ALL
    SELECT 'pg_default_acl'::regclass, d.oid, 0, NULL, d.defaclrole, true, d.defaclacl, jsonb '{"exists": true}'
      FROM pg_default_acl AS d

    UNION ALL
    SELECT 'pg_namespace'::regclass, n.oid, 0, NULL, n.nspowner, true, n.nspacl, jsonb '{"exists": true}'
      FROM schemas AS n

    UNION ALL
    SELECT 'pg_class'::regclass, c.oid, 0, NULL, c.relowner, c.relkind NOT IN ('i', 'I'), c.relacl,
           to_jsonb(c) - '{oid, relname, relnamespace, reltype, reloftype, relowner, relam, relfilenode, reltablespace, relpages,
                           reltuples, relallvisible, relallfrozen, reltoastrelid, relhasindex, relhasrules, relhastriggers,
                           relhassubclass, relnatts, relrewrite, relfrozenxid, relminmxid, relacl, relpartbound}'::text[]
           || jsonb_build_object(
               'access method', (SELECT a.amname FROM pg_am AS a WHERE a.oid = c.relam),
               'tablespace', (SELECT t.spcname FROM pg_tablespace AS t WHERE t.oid = c.reltablespace),
               'options of its toast', (SELECT t.reloptions FROM pg_class AS t WHERE t.oid = c.reltoastrelid),
               'inherits', (SELECT jsonb_agg(i.inhparent::regclass ORDER BY i.inhseqno) FROM pg_inherits AS i WHERE i.inhrelid = c.oid),
               'definition', CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid)
                                  WHEN c.relkind IN ('i', 'I') THEN pg_get_indexdef(c.oid)
                                  WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END,
               'bounds', pg_get_expr(c.relpartbound, c.oid))
           || coalesce((SELECT to_jsonb(i) - '{indexrelid, indrelid, indkey, indcollation, indclass, indoption, indexprs, indpred,
                                               indcheckxmin}'::text[]
                          FROM pg_index AS i WHERE i.indexrelid = c.oid), '{}')
           || coalesce((SELECT to_jsonb(s) - '{seqrelid, seqtypid}'::text[]
                               || jsonb_build_object('type', format_type(s.seqtypid, NULL),
                                                     'owned by', (SELECT i.identity
                                                                    FROM pg_depend AS d, pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) AS i
                                                                   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                                                     AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0))
                          FROM pg_sequence AS s WHERE s.seqrelid = c.oid), '{}')
      FROM relations AS c

    UNION ALL
    SELECT 'pg_class'::regclass, a.attrelid, a.attnum, NULL, NULL, false, a.attacl,
           to_jsonb(a) - '{attrelid, attname, atttypid, attnum, attcacheoff, attcollation, attacl, attoptions, atthasmissing, attmissingval}'::text[]
           || jsonb_build_object(
               -- Recent minor releases stamp each column with the moment at which its table was made.
               'attoptions', (SELECT jsonb_agg(o ORDER BY o) FROM unnest(a.attoptions) AS o WHERE o NOT LIKE 'pg\_attver=%'),
               'place', row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum),
               'type', format_type(a.atttypid, a.atttypmod),
               'collation', (SELECT format('%I.%I', l.collnamespace::regnamespace, l.collname) FROM pg_collation AS l WHERE l.oid = a.attcollation),
               'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef AS d WHERE (d.adrelid, d.adnum) = (a.attrelid, a.attnum)))
      FROM pg_attribute AS a JOIN relations ON relations.oid = a.attrelid
     WHERE a.attnum > 0 AND NOT a.attisdropped

    UNION ALL
    SELECT 'pg_constraint'::regclass, c.oid, 0, NULL, NULL, false, NULL,
           to_jsonb(c) - '{oid, conname, connamespace, conrelid, contypid, conindid, conparentid, confrelid, conkey, confkey,
                           conpfeqop, conppeqop, conffeqop, confdelsetcols, conexclop, conbin}'::text[]
           || jsonb_build_object('definition', pg_get_constraintdef(c.oid), 'index', NULLIF(c.conindid, 0)::regclass)
      FROM pg_constraint AS c JOIN schemas ON schemas.oid = c.connamespace

    UNION ALL
    -- PostgreSQL names the triggers of a foreign key by their OIDs.
    SELECT 'pg_trigger'::regclass, t.oid, 0,
           CASE WHEN t.tgisinternal THEN format('trigger of %s on %s, %s', k.conname, t.tgrelid::regclass, t.tgfoid::regproc) END,
           NULL, false, NULL,
           to_jsonb(t) - '{oid, tgname, tgrelid, tgparentid, tgfoid, tgconstrrelid, tgconstrindid, tgconstraint, tgattr, tgargs, tgqual}'::text[]
           || jsonb_build_object('definition', CASE WHEN NOT t.tgisinternal THEN pg_get_triggerdef(t.oid) END)
      FROM pg_trigger AS t JOIN relations ON relations.oid = t.tgrelid LEFT JOIN pg_constraint AS k ON k.oid = t.tgconstraint

    UNION ALL
    SELECT 'pg_rewrite'::regclass, r.oid, 0, NULL, NULL, false, NULL,
           jsonb_build_object('enabled', r.ev_enabled, 'definition', CASE WHEN r.rulename <> '_RETURN' THEN pg_get_ruledef(r.oid) END)
      FROM pg_rewrite AS r JOIN relations ON relations.oid = r.ev_class

    UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, 0, NULL, NULL, false, NULL,
           jsonb_build_object('command', p.polcmd, 'permissive', p.polpermissive, 'using', pg_get_expr(p.polqual, p.polrelid),
                              'check', pg_get_expr(p.polwithcheck, p.polrelid),
                              'roles', (SELECT jsonb_agg(pg_get_userbyid(r) ORDER BY 1) FROM unnest(p.polroles) AS r))
      FROM pg_policy AS p JOIN relations ON relations.oid = p.polrelid

    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, 0, NULL, t.typowner, true, t.typacl,
           to_jsonb(t) - '{oid, typname, typnamespace, typowner, typrelid, typelem, typarray, typbasetype, typcollation, typdefaultbin,
                           typacl}'::text[]
           || jsonb_build_object(
               'base', format_type(NULLIF(t.typbasetype, 0), t.typtypmod),
               'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum AS e WHERE e.enumtypid = t.oid),
               'ranges over', (SELECT format_type(r.rngsubtype, NULL) FROM pg_range AS r WHERE r.rngtypid = t.oid))
      FROM pg_type AS t JOIN schemas ON schemas.oid = t.typnamespace

    UNION ALL
    SELECT 'pg_proc'::regclass, p.oid, 0, NULL, p.proowner, true, p.proacl,
           to_jsonb(p) - '{oid, proname, pronamespace, proowner, prolang, provariadic, prorettype, proargtypes, proallargtypes,
                           proargdefaults, protrftypes, prosqlbody, proacl}'::text[]
           || jsonb_build_object(
               'language', (SELECT l.lanname FROM pg_language AS l WHERE l.oid = p.prolang),
               'arguments', pg_get_function_arguments(p.oid), 'result', pg_get_function_result(p.oid),
               'definition', CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END)
      FROM pg_proc AS p JOIN schemas ON schemas.oid = p.pronamespace
),

named (classid, objid, objsubid, object, owner, has_acl, acl, facts) AS (
    SELECT o.classid, o.objid, o.objsubid, coalesce(o.name, concat(i.type, ' ', i.identity)), o.owner, o.has_acl, o.acl, o.facts
      FROM objects AS o, pg_identify_object(o.classid, o.objid, o.objsubid) AS i
),

-- Who may do what: one privilege a row. Without a list PostgreSQL's defaults hold, which is not the same as a list that says so:
-- ALTER DEFAULT PRIVILEGES and pg_dump tell them apart.
privileges (object, list, acl) AS (
    SELECT object, 'privilege', acl FROM named
    UNION ALL
    SELECT n.object, concat('privilege at first (', i.privtype, ')'), i.initprivs
      FROM pg_init_privs AS i JOIN named AS n ON (n.classid, n.objid, n.objsubid) = (i.classoid, i.objoid, i.objsubid)
)

SELECT object, key AS property, value FROM named, jsonb_each_text(facts) WHERE value IS NOT NULL
UNION ALL
SELECT object, 'owner', pg_get_userbyid(owner) FROM named WHERE owner IS NOT NULL
UNION ALL
SELECT object, 'privileges', CASE WHEN acl IS NULL THEN 'the default' ELSE 'listed' END FROM named WHERE has_acl
UNION ALL
SELECT object, list, concat(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, ' ', a.privilege_type,
                            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END, ' from ', pg_get_userbyid(a.grantor))
  FROM privileges, aclexplode(acl) AS a
UNION ALL
SELECT n.object, 'comment', d.description
  FROM named AS n JOIN pg_description AS d ON (d.classoid, d.objoid, d.objsubid) = (n.classid, n.objid, n.objsubid)
UNION ALL
SELECT n.object, 'comment', d.description
  FROM named AS n JOIN pg_shdescription AS d ON (d.classoid, d.objoid) = (n.classid, n.objid)
UNION ALL
SELECT n.object, 'security label', concat(l.provider, ' ', l.label)
  FROM named AS n JOIN pg_seclabels AS l ON (l.classoid, l.objoid, l.objsubid) = (n.classid, n.objid, n.objsubid)
UNION ALL
-- Also members of kinds that have no rows above, by their names.
SELECT concat('extension ', e.extname), CASE d.deptype WHEN 'e' THEN 'member' ELSE 'depends on it' END, concat(i.type, ' ', i.identity)
  FROM pg_extension AS e
  JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
 CROSS JOIN pg_identify_object(d.classid, d.objid, d.objsubid) AS i
