#!/bin/sh
# Stands in for pg_basebackup in a lab whose PostgreSQL is newer than the client
# programs of the machine. All nodes share the machine and the user, so the
# primary's files can be copied in place. PostgreSQL 15 and later.
set -eu
for argument; do
	case $argument in
	--pgdata=*) to=${argument#*=} ;;
	--dbname=*) conninfo=${argument#*=} ;;
	esac
done
# The last of equal keywords counts: the replication user may not do this.
conninfo="$conninfo user=@SUPERUSER@ password=@PASSWORD@ dbname=postgres"
from=$('@PSQL@' -XAtq -d "$conninfo" -c 'show data_directory')
mkdir -p "$to"
chmod 700 "$to"
export from to
'@PSQL@' -XAtq -v ON_ERROR_STOP=1 -v label="$to/backup_label" -d "$conninfo" <<'SQL'
\o /dev/null
select pg_backup_start('lab', true);
\! cd "$from" && tar --warning=none --exclude=./postmaster.* --exclude=./pg_wal/* --exclude=./pg_replslot/* --exclude=./pg_dynshmem/* --exclude=./pg_stat_tmp/* --exclude=./global/pg_control --exclude=./.s.PGSQL.* -cf - . | tar -C "$to" -xf -
\! cp "$from/global/pg_control" "$to/global/pg_control" && mkdir -p "$to/pg_wal/archive_status"
\o
select labelfile from pg_backup_stop(false) \g :label
SQL
test -s "$to/backup_label"
