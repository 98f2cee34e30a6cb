-- What a DBA does once. The walkthrough shows it; `make psql` starts with it.
CREATE EXTENSION magic_link;
CREATE ROLE app_backend LOGIN;
SELECT magic_link.grant_backend('app_backend');
INSERT INTO magic_link.organizations (id, name) VALUES ('analytical-engines', 'Analytical Engines Ltd');
INSERT INTO magic_link.organization_roles (id, name) VALUES ('member', 'Member'), ('editor', 'Editor'), ('owner', 'Owner');
INSERT INTO magic_link.organization_jit_roles (organization_id, organization_role_id)
VALUES ('analytical-engines', 'member'), ('analytical-engines', 'editor');
