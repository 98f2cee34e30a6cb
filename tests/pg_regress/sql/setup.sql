-- What the other tests find: the extension, two organizations, and a backend's role.
CREATE EXTENSION magic_link;
INSERT INTO magic_link.organizations (id, name) VALUES ('acme', 'Acme'), ('globex', 'Globex');
INSERT INTO magic_link.organization_roles (id, name) VALUES ('editor', 'Editor'), ('member', 'Member'), ('viewer', 'Viewer');
INSERT INTO magic_link.organization_jit_roles (organization_id, organization_role_id)
VALUES ('acme', 'editor'), ('acme', 'member'), ('globex', 'viewer');
CREATE ROLE regress_backend;
SELECT magic_link.grant_backend('regress_backend');
