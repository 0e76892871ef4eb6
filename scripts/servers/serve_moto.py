"""moto's server on a loopback port, until standard input ends: serve_moto.py PORT"""

import logging
import os
import sys
import threading

from moto.server import ThreadedMotoServer


def end_with_input():
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
# Not a line for every request.
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
threading.Event().wait()
