"""What is asked and answered, as bytes and as values. Pure."""

from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype

MOST_UDP = 1232  # fits every path unfragmented: dnsflagday.net/2020
LEAST_UDP = 512  # RFC 1035
MOST_TCP = 65535
_HEADER = 12
_REFUSED_TYPES = {dns.rdatatype.AXFR, dns.rdatatype.IXFR, dns.rdatatype.ANY}  # whole zones, and what only amplifies


class Question(NamedTuple):
    """`room`: the longest answer that its asker takes over UDP, in bytes; `edns` None where it speaks none."""

    id: int
    message: dns.message.Message
    room: int
    edns: bool


class Unreadable(ValueError):
    """No question: it gets no answer at all."""


def read_question(data: bytes) -> Question:
    """Raises `Unreadable`."""
    if len(data) < _HEADER or data[2] & 0x80:
        raise Unreadable
    try:
        # Not `question_only`: the OPT record at the end says how long the answer may be.
        message = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError) as error:
        raise Unreadable from error
    if len(message.question) != 1:
        raise Unreadable
    has_edns = message.edns >= 0
    room = min(max(message.payload, LEAST_UDP), MOST_UDP) if has_edns else LEAST_UDP
    return Question(message.id, message, room, has_edns)


def refusal(question: Question) -> bytes | None:
    """The answer to what isn't asked on; None for what is."""
    asked = question.message.question[0]
    if question.message.opcode() != dns.opcode.QUERY:
        return answer_with(question, dns.rcode.NOTIMP)
    if asked.rdclass != dns.rdataclass.IN or asked.rdtype in _REFUSED_TYPES:
        return answer_with(question, dns.rcode.REFUSED)
    return None


def answer_with(question: Question, code: dns.rcode.Rcode) -> bytes:
    answer = dns.message.make_response(question.message, recursion_available=True)
    answer.set_rcode(code)
    return answer.to_wire()


def ask_on(question: Question) -> tuple[dns.message.Message, bytes]:
    """A question of our own that asks the same; its id is dnspython's random one."""
    asked = question.message.question[0]
    ours = dns.message.make_query(
        asked.name,
        asked.rdtype,
        asked.rdclass,
        use_edns=0 if question.edns else None,
        payload=MOST_UDP if question.edns else None,
        want_dnssec=question.edns and bool(question.message.ednsflags & dns.flags.DO),
    )
    return ours, ours.to_wire()


def is_answer(ours: dns.message.Message, data: bytes) -> bool:
    """Whether it is one to our question; whom it is from is the socket's to know."""
    try:
        answer = dns.message.from_wire(data, question_only=True)
    except (dns.exception.DNSException, ValueError):
        return False
    return ours.is_response(answer)


def is_truncated(answer: bytes) -> bool:
    return bool(answer[2] & 0x02)


def pass_on(question: Question, answer: bytes) -> bytes:
    return question.id.to_bytes(2, "big") + answer[2:]


def cut(question: Question, answer: bytes) -> bytes:
    """For UDP: as it is, or only its head with the mark that there is more."""
    if len(answer) <= question.room:
        return answer
    short = dns.message.make_response(question.message, recursion_available=True)
    short.flags |= dns.flags.TC
    return short.to_wire()
