"""identity: see DESIGN section 4."""

import os

# Names are spelled one character at a time; pypinyin's phrases would be a third of the time that the process takes to start.
os.environ.setdefault("PYPINYIN_NO_PHRASES", "true")
