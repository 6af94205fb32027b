"""Whether a statement may leave something behind in its session, and how a session is made as good as new.

Read off the text of the statement, on the safe side: what isn't surely harmless counts as a change. A function of the
user's own that changes its session can't be seen here; `reset: always` is for those who have such.
"""

from __future__ import annotations

import re
from functools import lru_cache

# White space, comments and parentheses as PostgreSQL has them, then a word that begins a statement on rows. Comments
# nest there, and one that holds another doesn't match. All possessive: nothing is tried twice, whatever is sent.
_PLAIN = re.compile(
    r"(?:[ \t\n\r\f\v(]|--[^\n\r]*+(?:[\n\r]|\Z)|/\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/)*+"
    r"(?:select|insert|update|delete|with|values|table|merge)\b",
    re.IGNORECASE,
)
# What changes the session from within such a statement: by a function, by pg_settings (an UPDATE of it is a SET), into
# a temporary table, or in a second statement. A name in Unicode escapes could be any of them.
_MARKS_SESSION = re.compile(
    r"""\bset_\w+"?\s*\(|set_config|advisory|pg_settings|\btemp(?:orary)?\b|pg_temp|dblink|setseed|pg_stat_reset"""
    r"""|replication_(?:slot|origin)|u&"|;\s*\S""",
    re.IGNORECASE,
)

# DISCARD ALL without DEALLOCATE of the driver's own statements, which it counts on. RESET ALL leaves the role alone;
# nothing takes a seed back, so that another one is set.
RESET = """
SELECT pg_advisory_unlock_all();
CLOSE ALL;
UNLISTEN *;
SET SESSION AUTHORIZATION DEFAULT;
RESET ALL;
DISCARD TEMP;
DISCARD SEQUENCES;
DO $reset$ DECLARE left_behind text; BEGIN
FOR left_behind IN SELECT name FROM pg_prepared_statements WHERE from_sql LOOP
EXECUTE 'DEALLOCATE ' || quote_ident(left_behind); END LOOP;
PERFORM setseed(extract(microseconds FROM clock_timestamp()) / 60000000); END $reset$
"""
"""Makes a session as good as new, in one round trip."""


@lru_cache(maxsize=4096)
def changes_session(query: str) -> bool:
    """Whether a statement may leave something behind in its session: a setting, a lock, a temporary table.

    >>> changes_session("SELECT 1"), changes_session("SET work_mem = '1GB'")
    (False, True)
    """
    return _PLAIN.match(query) is None or _MARKS_SESSION.search(query) is not None
