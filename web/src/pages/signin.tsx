// A server that asks for tokens.

import { useState } from "preact/hooks";
import { caller, get, needsToken, Problem, signIn } from "../api";
import { listen } from "../live";
import type { Caller } from "../shapes";
import { ProblemBox } from "../ui";

export function SignIn() {
  const [text, setText] = useState("");
  const [problem, setProblem] = useState<unknown>(null);
  const enter = async (event: Event) => {
    event.preventDefault();
    try {
      await signIn(text.trim());
      caller.value = await get<Caller>("/whoami");
      needsToken.value = false;
      void listen();
    } catch (wrong) {
      setProblem(wrong);
    }
  };
  return (
    <>
      <h1 tabIndex={-1}>Sign in</h1>
      <form class="stack" onSubmit={enter}>
        <p>This server asks for a token. The first one is in the file <code>admin.token</code> beside its store; an administrator gives out others under <em>Settings</em>.</p>
        <label>Token<input type="password" name="token" autocomplete="current-password" required value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
        <div class="row"><button class="primary" type="submit">Sign in</button><span class="muted small">kept until the browser is closed, or you sign out</span></div>
        {problem instanceof Problem && problem.status === 401 ? (
          <div class="problem" role="alert"><p><strong class="error">✗ this token does not count here</strong></p><p>It is mistyped, has expired, or was taken back.</p></div>
        ) : <ProblemBox problem={problem} />}
      </form>
    </>
  );
}
