"""Finds an interpreter that has the packages of a check, which need not be the one that Meson found."""
import importlib.util
import os
import sys

DISTRIBUTION = '/usr/bin/python3'


def need(*modules):
    """Returns where all can be imported. Else starts over under TEST_REFERENCE_PYTHON (such as a virtual environment's; it
    goes first where it is set), then under the distribution's Python; at last skips aloud with exit code 77."""
    named = os.environ.pop('TEST_REFERENCE_PYTHON', None)
    if named:
        os.execv(named, [named, *sys.argv])
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing and os.environ.setdefault('TEST_REFERENCE_TRIED', sys.executable) != DISTRIBUTION:
        os.environ['TEST_REFERENCE_TRIED'] = DISTRIBUTION
        if os.path.exists(DISTRIBUTION):
            os.execv(DISTRIBUTION, [DISTRIBUTION, *sys.argv])
    if missing:
        print(f'*** SKIPPED: no Python here has {" and ".join(modules)} (install python3-numpy or python3-sklearn, or set '
              'TEST_REFERENCE_PYTHON) ***', file=sys.stderr)
        sys.exit(77)
