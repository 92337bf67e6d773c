"""Prints tests/tokens.txt: the tokens that botocore makes for some users, at a fixed time and with a fixed key.

    pip install botocore==1.43.127 && python3 shared/tests/tokens.py > shared/tests/tokens.txt
"""

import datetime
from unittest import mock

import botocore.auth
import botocore.session

DSQL = "abcdefghij0123456789abcdef.dsql.eu-central-1.on.aws"
RDS = "db.abcdefghijkl.eu-central-1.rds.amazonaws.com"
NOW = datetime.datetime(2015, 8, 30, 12, 36, 0)
# In AWS's format, with characters that must be encoded in a URL.
SESSION_TOKEN = "IQoJb3JpZ2luX2VjEJr//////////wEaDGV1LWNlbnRyYWwtMSJH+example/token=="


def token(service, user, session_token):
    session = botocore.session.Session()
    session.set_credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", session_token)
    client = session.create_client(service, region_name="eu-central-1")
    if service == "rds":
        return client.generate_db_auth_token(DBHostname=RDS, Port=5433, DBUsername=user)
    if user == "admin":
        return client.generate_db_connect_admin_auth_token(DSQL, ExpiresIn=900)
    return client.generate_db_connect_auth_token(DSQL, ExpiresIn=900)


with mock.patch.object(botocore.auth, "get_current_datetime", lambda *_: NOW):
    for service, user in [("dsql", "admin"), ("dsql", "users_reader"), ("rds", "a+user@name")]:
        for session_token in [None, SESSION_TOKEN]:
            print(service, user, session_token or "-", token(service, user, session_token))
