"""A Hub on the loopback: the HTTP surface that huggingface_hub calls, over repositories in memory.

Two servers, because the real Hub is two: large files are kept at another origin than the repositories, and a token must
never travel there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from loopback_servers import Answer, LoopbackServers, Request

READER, WRITER = "hf_may_read", "hf_may_write"


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Commits by id, and what branches and tags point to."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], *, message: str = "files", branch: str = "main") -> str:
        """Put files over those of the branch, or of main where it is new."""
        parent = self.refs.get(branch) or self.refs.get("main")
        before = self.commits[parent].files if parent else {}
        oid = secrets.token_hex(20)
        self.commits[oid] = Commit(oid, message, {**before, **files})
        self.refs[branch] = oid
        return oid

    def find(self, revision: str) -> Commit | None:
        return self.commits.get(self.refs.get(revision, revision))


class LocalHub(LoopbackServers):
    """The Hub (`address`) and its store of large files (`store_address`), serving while the block runs.

        with LocalHub() as hub:
            hub.commit("org/name", {"config.json": b"{}"})

    Attributes:
        repositories: by id.
        large: contents of large files by sha256.
    """

    def __init__(self) -> None:
        super().__init__("hub", "store")
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        # Another name, not only another port: some clients tell servers apart by their names.
        self.address = f"http://127.0.0.1:{self.ports['hub']}"
        self.store_address = f"http://localhost:{self.ports['store']}"

    def commit(self, repo: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """Commit files, to a repository made if absent; returns the commit's id."""
        with self.lock:
            return self.repositories.setdefault(repo, Repository()).commit(files, branch=branch)

    def answer(self, request: Request) -> Answer:
        """What a Hub that behaves says."""
        for pattern, methods, server, route in _ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and request.server == server and request.method in methods:
                return route(self, request, *(unquote(part) for part in match.groups() if part is not None))
        return Answer.error(404, None, "no such page")

    def _readable(self, request: Request, repo: str) -> Repository | Answer:
        found = self.repositories.get(repo)
        known = request.token in (READER, WRITER)
        if request.token is not None and not known:
            return Answer.error(401, None, "Invalid credentials in Authorization header")
        if found is None or (found.private and not known):
            # Strangers are not told whether there is one.
            return Answer.error(404 if known else 401, "RepoNotFound", "Repository not found")
        if found.gated:
            return Answer.error(403 if known else 401, "GatedRepo", f"Access to model {repo} is restricted")
        return found

    def _writable(self, request: Request, repo: str) -> Repository | Answer:
        if request.token == WRITER:
            return self._readable(request, repo)
        return Answer.error(403 if request.token == READER else 401, None, "You don't have the right to write here")

    def _resolve(self, request: Request, repo: str, revision: str, name: str) -> Answer:
        found = self._readable(request, repo)
        if isinstance(found, Answer):
            return found
        commit = found.find(revision)
        if commit is None:
            return Answer.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        of_commit = {"X-Repo-Commit": commit.oid}
        if name not in commit.files:
            return Answer.error(404, "EntryNotFound", "Entry not found", **of_commit)
        content = commit.files[name]
        oid = content_id(name, content)
        if not is_large(name):
            return Answer(200, content, {**of_commit, "ETag": f'"{oid}"', "Accept-Ranges": "bytes"})
        self.large[oid] = content
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{oid}"'}
        location = f"{self.store_address}/cdn/{oid}?signature=x"
        return Answer(302, b"Found", {**of_commit, **linked, "Location": location})

    def _stored(self, request: Request, sha256: str) -> Answer:
        if sha256 not in self.large or not request.query.get("signature"):
            return Answer.error(403, None, "the address was not signed")
        return Answer(200, self.large[sha256], {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    def _info(self, request: Request, repo: str, revision: str = "main") -> Answer:
        found = self._readable(request, repo)
        if isinstance(found, Answer):
            return found
        commit = found.find(revision)
        if commit is None:
            return Answer.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [{"rfilename": name} for name in commit.files]
        about = {"id": repo, "sha": commit.oid, "private": found.private, "siblings": siblings}
        return Answer.of_json({**about, "tags": [], "downloads": 0, "likes": 0})

    def _create(self, request: Request) -> Answer:
        wanted = json.loads(request.body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        if request.token != WRITER:
            return Answer.error(403 if request.token else 401, None, f"You don't have the rights to create {repo}")
        if wanted.get("private", False) is None:
            return Answer.error(400, None, "private must be a boolean")
        if repo in self.repositories:
            return Answer.of_json({"error": "You already created this", "url": f"{self.address}/{repo}"}, 409)
        private = wanted.get("private", False) or wanted.get("visibility") == "private"
        self.repositories[repo] = made = Repository(private=private)
        made.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, message="initial commit")
        return Answer.of_json({"url": f"{self.address}/{repo}", "name": repo, "id": "0"})

    def _validate_card(self, request: Request) -> Answer:
        front_matter = re.match(r"---\r?\n.*?\r?\n---", json.loads(request.body)["content"], re.DOTALL)
        if front_matter is None:
            return Answer.of_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]})
        return Answer.of_json({"errors": [], "warnings": []})

    def _preupload(self, request: Request, repo: str, revision: str) -> Answer:
        found = self._writable(request, repo)
        if isinstance(found, Answer):
            return found
        commit = found.find(revision)
        if commit is None:
            return Answer.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        names = [file["path"] for file in json.loads(request.body)["files"]]
        ids = [content_id(name, commit.files[name]) if name in commit.files else None for name in names]
        modes = [
            {"path": name, "uploadMode": "lfs" if is_large(name) else "regular", "shouldIgnore": False, "oid": oid}
            for name, oid in zip(names, ids, strict=True)
        ]
        return Answer.of_json({"files": modes})

    def _batch(self, request: Request, repo: str) -> Answer:
        found = self._writable(request, repo)
        if isinstance(found, Answer):
            return found
        wanted = json.loads(request.body)["objects"]
        actions = [
            {
                "upload": {"href": f"{self.store_address}/upload/{item['oid']}"},
                "verify": {"href": f"{self.address}/verify/{item['oid']}"},
            }
            for item in wanted
        ]
        known = [item["oid"] in self.large for item in wanted]
        objects = [
            {"oid": item["oid"], "size": item["size"], **({} if there else {"actions": steps})}
            for item, steps, there in zip(wanted, actions, known, strict=True)
        ]
        return Answer.of_json({"transfer": "basic", "objects": objects})

    def _upload(self, request: Request, sha256: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != sha256:
            return Answer.error(400, None, "BadDigest")
        self.large[sha256] = request.body
        return Answer(200, b"", {"ETag": f'"{sha256}"'})

    def _verify(self, request: Request, sha256: str) -> Answer:
        wanted = json.loads(request.body)
        size = len(self.large[sha256]) if sha256 in self.large else None
        return Answer.of_json({}, 200 if wanted == {"oid": sha256, "size": size} else 400)

    def _commit(self, request: Request, repo: str, revision: str) -> Answer:
        found = self._writable(request, repo)
        if isinstance(found, Answer):
            return found
        if revision not in found.refs:
            return Answer.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        lines = [json.loads(line) for line in request.body.splitlines()]
        files = {}
        for value in (line["value"] for line in lines[1:]):
            content = base64.b64decode(value["content"]) if "content" in value else self.large.get(value["oid"])
            if content is None:
                return Answer.error(400, None, f"{value['path']} was not uploaded")
            files[value["path"]] = content
        as_pull = request.query.get("create_pr") == ["1"]
        number = 1 + sum(ref.startswith("refs/pr/") for ref in found.refs)
        branch = f"refs/pr/{number}" if as_pull else revision
        oid = found.commit(files, message=lines[0]["value"]["summary"], branch=branch)
        pull = {"pullRequestUrl": f"{self.address}/{repo}/discussions/{number}"} if as_pull else {}
        return Answer.of_json({"commitUrl": f"{self.address}/{repo}/commit/{oid}", "commitOid": oid, **pull})


def is_large(name: str) -> bool:
    """Whether a file is kept in the store, as the Hub does by the end of its name."""
    return name.endswith((".safetensors", ".bin", ".pt", ".ckpt"))


def content_id(name: str, content: bytes) -> str:
    """What the ETag of a file is: git's name for its content, of large files the sha256."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


_ID = "([^/]+/[^/]+)"
_Route = Callable[..., Answer]
_ROUTES: list[tuple[str, tuple[str, ...], str, _Route]] = [
    (f"/{_ID}/resolve/([^/]+)/(.+)", ("GET", "HEAD"), "hub", LocalHub._resolve),
    ("/cdn/([0-9a-f]{64})", ("GET", "HEAD"), "store", LocalHub._stored),
    (f"/api/models/{_ID}(?:/revision/([^/]+))?", ("GET",), "hub", LocalHub._info),
    ("/api/repos/create", ("POST",), "hub", LocalHub._create),
    ("/api/validate-yaml", ("POST",), "hub", LocalHub._validate_card),
    (f"/api/models/{_ID}/preupload/([^/]+)", ("POST",), "hub", LocalHub._preupload),
    (f"/{_ID}\\.git/info/lfs/objects/batch", ("POST",), "hub", LocalHub._batch),
    ("/upload/([0-9a-f]{64})", ("PUT",), "store", LocalHub._upload),
    ("/verify/([0-9a-f]{64})", ("POST",), "hub", LocalHub._verify),
    (f"/api/models/{_ID}/commit/([^/]+)", ("POST",), "hub", LocalHub._commit),
]
