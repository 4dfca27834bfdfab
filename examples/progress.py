"""A long calculation that says how far it is: how many primes there are below `limit`.

The log can be read while the action runs; printing works as well as engine.log.
"""

import time

STEPS = 10


def Run(engine):
    limit = int(engine.params.get("limit", "2000000"))
    began = time.monotonic()
    is_prime = bytearray([1]) * limit
    is_prime[0:2] = bytes(min(2, limit))

    root = int(limit**0.5) + 1
    said = 0
    for number in range(2, root):
        if is_prime[number]:
            is_prime[number * number :: number] = bytes(len(range(number * number, limit, number)))
        if number * STEPS // root > said:
            said = number * STEPS // root
            engine.log.info(f"{said * 100 // STEPS} %")

    print(f"took {time.monotonic() - began:.2f} s")
    engine.result.set({"limit": limit, "primes": sum(is_prime)}, content_type="json")
