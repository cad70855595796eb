"""How the server's log is written: a line each, with its time, also where one message brings many."""

import logging


class EachLine(logging.Formatter):
    """Puts before every line of a message what stands before its first. The format must end with the message.

    So a pass can hand over thousands of lines as one message, which costs about as much as one.
    """

    def format(self, record: logging.LogRecord) -> str:
        whole = super().format(record)
        if "\n" not in record.message or record.exc_info or record.stack_info:
            return whole
        before = whole[: -len(record.message)]
        return "\n".join(before + line for line in record.message.split("\n"))
