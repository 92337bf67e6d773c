"""Creates, reads, updates and deletes a user with a client generated from openapi.yaml."""

import sys
import uuid

from users_api_client import Client
from users_api_client.api.users import create_user, delete_user, get_user, list_users, update_user
from users_api_client.models import InvalidInput, Message, NewUser, Problem, User


def main(url: str) -> None:
    client = Client(base_url=url, raise_on_unexpected_status=True)

    key = str(uuid.uuid4())
    created = create_user.sync_detailed(client=client, body=NewUser("Zoë", 30), idempotency_key=key)
    user, tag = created.parsed, created.headers["ETag"]
    assert created.status_code == 201
    assert user == User(id=user.id, name="Zoë", age=30)
    assert created.headers["Location"] == f"users/{user.id}"
    repeated = create_user.sync_detailed(client=client, body=NewUser("Zoë", 30), idempotency_key=key)
    assert (repeated.status_code, repeated.parsed) == (201, user)
    reused = create_user.sync_detailed(client=client, body=NewUser("Zoë", 31), idempotency_key=key)
    assert reused.status_code == 422 and isinstance(reused.parsed, Problem)
    wrong = create_user.sync_detailed(client=client, body=NewUser("", 151))
    assert wrong.status_code == 400 and isinstance(wrong.parsed, InvalidInput)
    assert [error.pointer for error in wrong.parsed.errors] == ["#/name", "#/age"]

    assert get_user.sync(user.id, client=client) == user
    quoted = create_user.sync_detailed(client=client, body=NewUser("Zoë", 30), idempotency_key=f'"{key}"')
    assert (quoted.status_code, quoted.parsed) == (201, user)
    unchanged = get_user.sync_detailed(user.id, client=client, if_none_match=tag)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    page = list_users.sync_detailed(client=client, limit=1, after=user.id - 1)
    assert (page.status_code, page.parsed) == (200, [user])

    updated = update_user.sync_detailed(user.id, client=client, body=NewUser("Zoe", 31), if_match=tag)
    assert (updated.status_code, updated.parsed) == (200, User(id=user.id, name="Zoe", age=31))
    lost = update_user.sync_detailed(user.id, client=client, body=NewUser("Zoe", 32), if_match=tag)
    assert lost.status_code == 412 and isinstance(lost.parsed, Problem)

    known = update_user.sync_detailed(user.id, client=client, body=NewUser("Zoe", 32), if_none_match="*")
    assert known.status_code == 412 and isinstance(known.parsed, Problem)

    tag = updated.headers["ETag"]
    deleted = delete_user.sync_detailed(user.id, client=client, if_match=tag)
    assert (deleted.status_code, deleted.parsed) == (200, Message(f"User {user.id} deleted"))
    gone = get_user.sync_detailed(user.id, client=client)
    assert gone.status_code == 404 and isinstance(gone.parsed, Problem)
    print("the generated client created, read, updated and deleted a user")


main(*sys.argv[1:])
