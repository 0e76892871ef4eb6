"""What schemathesis does with a header that means something only once: each request has an idempotency key of its own,
since another request under a known key is rightly refused."""

import uuid

import schemathesis

HEADER = "idempotency-key"


@schemathesis.hook
def before_call(context, case, kwargs):
    key = (case.headers or {}).get(HEADER)
    # What is no key at all is to be refused, and stays.
    if isinstance(key, str) and 1 <= len(key) <= 255:
        case.headers[HEADER] = uuid.uuid4().hex
