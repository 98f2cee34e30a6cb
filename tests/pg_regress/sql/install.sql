-- The extension installs by itself, in the version that its control file names, and only a superuser may do it.
CREATE EXTENSION magic_link;
SELECT a.installed_version = a.default_version AS "default version", v.superuser, v.trusted, v.relocatable
FROM pg_available_extensions AS a
JOIN pg_available_extension_versions AS v ON v.name = a.name AND v.version = a.installed_version
WHERE a.name = 'magic_link';
DROP EXTENSION magic_link;
