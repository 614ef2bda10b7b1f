"""A smarthost on aiosmtpd that demands STARTTLS and a login. It writes what it takes into a maildir for each
recipient, with LF line ends.

python3 smarthost.py PORT CERT KEY USERNAME PASSWORD FOLDER
"""

import os
import signal
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

port, cert, key, username, password, folder = sys.argv[1:]


class Maildirs:
    count = 0

    async def handle_DATA(self, server, session, envelope):
        text = envelope.original_content.replace(b"\r\n", b"\n")
        for recipient in envelope.rcpt_tos:
            Maildirs.count += 1
            for sub in ("tmp", "new"):
                os.makedirs(os.path.join(folder, recipient, sub), exist_ok=True)
            name = f"{os.getpid()}.{Maildirs.count}"
            with open(os.path.join(folder, recipient, "tmp", name), "wb") as f:
                f.write(b"Received: by aiosmtpd for " + session.auth_data + b"\n" + text)
            os.rename(os.path.join(folder, recipient, "tmp", name), os.path.join(folder, recipient, "new", name))
        return "250 OK"


def login(server, session, envelope, mechanism, data):
    good = data.login == username.encode() and data.password == password.encode()
    return AuthResult(success=good, auth_data=data.login)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)


class Smarthost(Controller):
    def factory(self):
        return SMTP(
            self.handler,
            hostname="smarthost.example",
            tls_context=context,
            require_starttls=True,
            auth_required=True,
            authenticator=login,
            data_size_limit=20 * 1000 * 1000,
            decode_data=False,
        )


smarthost = Smarthost(Maildirs(), hostname="127.0.0.1", port=int(port), ready_timeout=60)
smarthost.start()
signal.sigwait([signal.SIGTERM])
smarthost.stop()
