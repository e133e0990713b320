// The server's public API: requests, their errors, and streams of chat completions.

export interface Usage {
  prompt: number;
  cached: number;
  output: number;
  reasoning: number;
  /** In units of the ledger's currency, where there are prices. */
  cost?: number;
}

export interface Model {
  id: string;
  state: 'absent' | 'loading' | 'ready';
  bytes: number;
  context: number;
}

/** What came instead of an answer: a refusal of the server, or none at all (status 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    /** Seconds to wait. */
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

export interface Call {
  method?: string;
  body?: unknown;
  key?: string;
  signal?: AbortSignal;
  accept?: string;
}

function seconds(header: string | null): number | undefined {
  const value = Number(header);
  return header && Number.isFinite(value) && value >= 0 ? Math.min(value, 86_400) : undefined;
}

async function refusal(response: Response): Promise<ApiError> {
  const retry = seconds(response.headers.get('retry-after'));
  try {
    const { error } = await response.json();
    return new ApiError(response.status, String(error?.code ?? ''), String(error?.message ?? ''), retry);
  } catch {
    return new ApiError(response.status, '', response.statusText, retry);
  }
}

/** Sends a request. Paths are of this server; keys are in a header, never in cookies or addresses. */
export async function send(path: string, call: Call = {}): Promise<Response> {
  const headers: Record<string, string> = { accept: call.accept ?? 'application/json' };
  if (call.key) headers.authorization = `Bearer ${call.key}`;
  if (call.body !== undefined) headers['content-type'] = 'application/json';
  let response: Response;
  try {
    response = await fetch(path, {
      method: call.method ?? (call.body === undefined ? 'GET' : 'POST'),
      headers,
      body: call.body === undefined ? undefined : JSON.stringify(call.body),
      signal: call.signal,
      credentials: 'omit',
      cache: 'no-store',
      redirect: 'error',
    });
  } catch (error) {
    if (call.signal?.aborted) throw error;
    throw new ApiError(0, 'network', String((error as Error).message ?? error));
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** An answer; its fields are checked where they are used. */
export async function json(path: string, call: Call = {}): Promise<any> {
  const response = await send(path, call);
  try {
    return await response.json();
  } catch (error) {
    if (call.signal?.aborted) throw error;
    throw new ApiError(0, 'network', String((error as Error).message ?? error));
  }
}

export async function models(key: string): Promise<Model[]> {
  const list = await json('/v1/models', { key });
  return (list.data as any[]).map((model) => ({
    id: String(model.id),
    state: model.state,
    bytes: Number(model.bytes) || 0,
    context: Number(model.context_length) || 0,
  }));
}

export interface Piece {
  text: string;
  reasoning: string;
  finish?: string;
  usage?: Usage;
}

function usage(given: any): Usage {
  const count = (value: unknown) => Number(value) || 0;
  return {
    prompt: count(given.prompt_tokens),
    cached: count(given.prompt_tokens_details?.cached_tokens),
    output: count(given.completion_tokens),
    reasoning: count(given.completion_tokens_details?.reasoning_tokens),
    ...(typeof given.cost === 'number' && { cost: given.cost }),
  };
}

function piece(event: any): Piece {
  const choice = event.choices?.[0];
  const text = (value: unknown) => (typeof value === 'string' ? value : '');
  return {
    text: text(choice?.delta?.content),
    reasoning: text(choice?.delta?.reasoning_content),
    finish: choice?.finish_reason ?? undefined,
    usage: event.usage ? usage(event.usage) : undefined,
  };
}

/** Lines of server-sent events' data. */
async function* data(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop() ?? '';
      for (const line of lines) if (line.startsWith('data:')) yield line.slice(5).trimStart();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Streams a chat completion. Ends when the server said that it is whole; a stream that ends otherwise is an error with
 * the code `lost`.
 */
export async function* chat(body: object, key: string, signal: AbortSignal): AsyncGenerator<Piece> {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await send('/v1/chat/completions', { body: asked, key, signal, accept: 'text/event-stream' });
  try {
    for await (const line of data(response.body!)) {
      if (line === '[DONE]') return;
      let event: any;
      try {
        event = JSON.parse(line);
      } catch {
        throw new ApiError(0, 'lost', 'an event that is no JSON');
      }
      // Errors of servers have codes: this is a router's, whose server is gone.
      if (event.error && !event.error.code) throw new ApiError(0, 'lost', String(event.error.message ?? ''));
      if (event.error) throw new ApiError(500, String(event.error.code ?? ''), String(event.error.message ?? ''));
      yield piece(event);
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError(0, 'lost', String((error as Error).message ?? error));
  }
  throw new ApiError(0, 'lost', 'the stream ended early');
}
