"""The tables of the record, as the steps that lead from each version of the schema to the next.

The columns of a table are the fields of its struct in `rows`, in its order.
"""

from __future__ import annotations

_FIRST = """
CREATE TABLE sessions (
    session TEXT PRIMARY KEY, spec TEXT NOT NULL, layout TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL,
    ended REAL, generation INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE invites (
    session TEXT NOT NULL REFERENCES sessions, number INTEGER NOT NULL, role TEXT NOT NULL, secret_hash TEXT NOT NULL,
    label TEXT NOT NULL, expires REAL NOT NULL, capacity INTEGER NOT NULL, uses INTEGER NOT NULL, revoked REAL,
    PRIMARY KEY (session, number)
) WITHOUT ROWID;
CREATE TABLE members (
    session TEXT NOT NULL REFERENCES sessions, member TEXT NOT NULL, role TEXT NOT NULL, name TEXT NOT NULL,
    token_hash TEXT NOT NULL, joined REAL NOT NULL, last_seen REAL NOT NULL, PRIMARY KEY (session, member)
) WITHOUT ROWID;
CREATE TABLE events (
    session TEXT NOT NULL REFERENCES sessions, unix_time REAL NOT NULL, generation INTEGER NOT NULL,
    round INTEGER NOT NULL, level TEXT NOT NULL, member TEXT NOT NULL, text TEXT NOT NULL,
    number INTEGER PRIMARY KEY AUTOINCREMENT
);
CREATE INDEX events_of_session ON events (session, number);
CREATE TABLE rounds (
    session TEXT NOT NULL REFERENCES sessions, round INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (session, round)
);
CREATE TABLE metrics (
    session TEXT NOT NULL REFERENCES sessions, version INTEGER NOT NULL, member TEXT NOT NULL, name TEXT NOT NULL,
    sum REAL, count INTEGER NOT NULL, PRIMARY KEY (session, version, member, name)
) WITHOUT ROWID;
"""

_SECOND = """
CREATE TABLE checkpoints (
    session TEXT NOT NULL REFERENCES sessions, number INTEGER NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
    manifest TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (session, number)
) WITHOUT ROWID;
"""

# The index has all that `Database.latest_metrics` asks for, which would read every member's metrics otherwise. The
# learning rate was a factor on the rule's before.
_THIRD = """
CREATE INDEX metrics_of_all ON metrics (session, name, version, sum, count) WHERE member = '';
UPDATE sessions SET spec = json_set(
    spec, '$.settings.learning_rate',
    json_extract(spec, '$.settings.learning_rate_scale') * json_extract(spec, '$.rule.optimizer.lr')
) WHERE json_extract(spec, '$.settings.learning_rate_scale') <> 1.0;
"""

_FOURTH = """
ALTER TABLE members ADD COLUMN standing TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sessions ADD COLUMN ending TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN sample TEXT;
"""

STEPS = (_FIRST, _SECOND, _THIRD, _FOURTH)
