-- What a DBA sees of the extension.
\dn+ magic_link
\d magic_link.one_time_tokens
\d magic_link.users
\d magic_link.organizations
\d magic_link.organization_roles
\d magic_link.organization_jit_roles
\d magic_link.organization_jit_email_domains
\d magic_link.organization_memberships
\d magic_link.organization_membership_roles
\d magic_link.one_time_token_status
\d magic_link.session_switch
\d magic_link.one_time_token_activity

-- Who may do what, beside the owner.
SELECT c.relname, a.grantee::regrole, a.privilege_type, a.is_grantable
  FROM pg_class AS c, aclexplode(c.relacl) AS a
 WHERE c.relnamespace = 'magic_link'::regnamespace AND a.grantee <> c.relowner ORDER BY 1, 2, 3;

-- The functions: who runs them, and with which search_path.
SELECT p.oid::regprocedure AS function, p.prosecdef AS definer, p.provolatile AS volatility, p.proisstrict AS strict,
       p.proconfig AS config, p.proacl
  FROM pg_proc AS p WHERE p.pronamespace = 'magic_link'::regnamespace ORDER BY p.proname;

-- Nothing is left unexplained.
SELECT p.oid::regprocedure AS uncommented FROM pg_proc AS p
 WHERE p.pronamespace = 'magic_link'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.oid::regclass AS uncommented, a.attname FROM pg_class AS c
  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind IN ('r', 'v')
   AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL);

-- Every table is marked for pg_dump.
SELECT c.relname AS undumped FROM pg_class AS c
 WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind = 'r'
   AND NOT c.oid = ANY ((SELECT e.extconfig FROM pg_extension AS e WHERE e.extname = 'magic_link')::oid[]);

-- The settings, which are there once the library is loaded.
LOAD 'magic_link';
SELECT name, setting, unit, context, vartype, min_val, max_val FROM pg_settings WHERE name LIKE 'magic\_link.%' ORDER BY 1;
