-- One tier's database and login roles, for psql; safe to run again. Connect as a superuser to the database "postgres".
--   psql -v tier=oltp -f roles.sql
-- Passwords come from the environment, never from the command line: OWNER_PASSWORD, APP_PASSWORD,
-- MAINTENANCE_PASSWORD, READONLY_PASSWORD.
\set ON_ERROR_STOP on
\set QUIET on
\getenv owner_password OWNER_PASSWORD
\getenv app_password APP_PASSWORD
\getenv maintenance_password MAINTENANCE_PASSWORD
\getenv readonly_password READONLY_PASSWORD
\set database penguin_ :tier
\set owner :tier _owner
\set app :tier _app
\set maintenance :tier _maintenance
\set readonly :tier _readonly
SET client_min_messages = warning;

SELECT format('CREATE ROLE %I', wanted.name)
FROM (VALUES (:'owner'), (:'app'), (:'maintenance'), (:'readonly')) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name)
\gexec

-- owner: runs migrations. app: the service. maintenance: cross-tenant duties, through policies of its own.
-- readonly: reports. None may pass by row-level security.
ALTER ROLE :"owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'owner_password';
ALTER ROLE :"app" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'app_password';
ALTER ROLE :"maintenance" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'maintenance_password';
ALTER ROLE :"readonly" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'readonly_password';
ALTER ROLE :"readonly" SET default_transaction_read_only = on;
-- So that what maintenance tells of old transactions is of all roles': of others it would see neither age nor snapshot.
GRANT pg_read_all_stats TO :"maintenance";

SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec

ALTER DATABASE :"database" OWNER TO :"owner";
ALTER DATABASE :"database" SET timezone = 'UTC';
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO :"app", :"maintenance", :"readonly";

\connect :"database"
SET client_min_messages = warning;

ALTER SCHEMA public OWNER TO :"owner";
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO :"app", :"maintenance", :"readonly";

-- What the owner creates later belongs to the others as far as their duties go, and to nobody else.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT USAGE, SELECT ON SEQUENCES TO :"app", :"maintenance";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT EXECUTE ON ROUTINES TO :"app", :"maintenance", :"readonly";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" GRANT USAGE ON SCHEMAS TO :"app", :"maintenance", :"readonly";
